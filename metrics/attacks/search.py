"""The state that all attacks on a batch share: best adversarial point of each image, and the passes spent."""

from enum import IntEnum

import torch
from torch import Tensor

from metrics.box import descending_within_box
from metrics.norms import Norm, length
from metrics.passes import Passes, margin, rounding_slack


class Attack(IntEnum):
    """The attack that found a point; a result's `.attack` tensor holds these numbers."""

    NONE = 0
    DEEPFOOL = 1
    FAST_MINIMUM_NORM = 2
    RANDOM_NOISE = 3


class Search:
    """The best verified point of each image so far.

    Attributes:
        images: clean images, shape (N, C, H, W), in [0, 1].
        labels: their classes, shape (N,).
        norm: the norm of the distance.
        adversarial: the adversarial image of smallest distance among all queries; the clean image where there is none.
        distance: its distance, shape (N,); infinite where there is none.
        attack: the `Attack` that found it, shape (N,).
    """

    def __init__(self, passes: Passes, images: Tensor, labels: Tensor, norm: Norm) -> None:
        self.passes = passes
        self.images = images
        self.labels = labels
        self.norm = norm
        self.adversarial = images.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.attack = torch.full((len(images),), Attack.NONE, dtype=torch.long, device=images.device)

    def margins(self, points: Tensor, rows: Tensor, attack: Attack | None) -> Tensor:
        """The margins of `points`, attempts at the images `rows`, shape (R,); adversarial where they are <= 0.

        They are shifted by the rounding slack, so that a point that counts as adversarial stays so in another batch.
        """
        return self._record(points, rows, self.passes.logits(points, rows), attack)

    def margins_and_gradients(self, points: Tensor, rows: Tensor, attack: Attack) -> tuple[Tensor, Tensor]:
        """The margins as above, and their gradients with respect to `points`, as far as the box lets one descend them."""
        logits, gradients = self.passes.margin_gradient(points, self.labels[rows], rows)
        return self._record(points, rows, logits, attack), descending_within_box(gradients, points)

    def _record(self, points: Tensor, rows: Tensor, logits: Tensor, attack: Attack | None) -> Tensor:
        margins = margin(logits, self.labels[rows]) + rounding_slack(logits)
        distances = length(points - self.images[rows], self.norm)
        better = (margins <= 0) & (distances < self.distance[rows])
        found = rows[better]
        self.distance[found] = distances[better]
        self.adversarial[found] = points[better]
        if attack is not None:
            self.attack[found] = attack
        return margins
