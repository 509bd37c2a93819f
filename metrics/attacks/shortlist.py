"""A list of the nearest few points, updated as new points come in."""

import torch
from torch import Tensor

from metrics.norms import per_row


class Shortlist:
    """For each of N images the nearest few of the points that are offered, the nearest first.

    Attributes:
        distance: shape (count, N); infinite where fewer were offered.
        points: shape (count, N, C, H, W).
        classes: a class that belongs to each, shape (count, N); 0 where none was given.
    """

    def __init__(self, count: int, images: Tensor) -> None:
        self.distance = torch.full((count, len(images)), torch.inf, dtype=images.dtype, device=images.device)
        self.points = images.expand(count, *images.shape).clone()
        self.classes = torch.zeros(count, len(images), dtype=torch.long, device=images.device)

    def offer(self, rows: Tensor, distance: Tensor, points: Tensor, classes: Tensor | None = None) -> None:
        """Insert one point for each of the images `rows`; points that are further away move down the list.

        Points at the same distance stay in the order in which they came.
        """
        classes = torch.zeros_like(rows) if classes is None else classes
        for rank in range(len(self.distance)):
            nearer = distance < self.distance[rank, rows]
            kept = self.distance[rank, rows], self.points[rank, rows], self.classes[rank, rows]
            self.distance[rank, rows] = torch.where(nearer, distance, kept[0])
            self.points[rank, rows] = torch.where(per_row(nearer, points), points, kept[1])
            self.classes[rank, rows] = torch.where(nearer, classes, kept[2])
            distance = torch.where(nearer, kept[0], distance)
            points = torch.where(per_row(nearer, points), kept[1], points)
            classes = torch.where(nearer, kept[2], classes)
