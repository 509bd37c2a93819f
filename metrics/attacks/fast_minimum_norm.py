"""The fast minimum-norm attack (Pintor et al. 2021, https://arxiv.org/abs/2102.12827)."""

import math

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.norms import DUAL, length, project, steepest

STEP_SIZE = {"linf": 10.0, "l2": 1.0}
"""The first step, in Euclidean length. In L-infinity the projection cuts nearly all of it: 10 is AttackBench's value,
where the paper's 1 is weak."""


def fast_minimum_norm(
    search: Search, rows: Tensor, *, steps: int, start: Tensor | None = None, growth: float = 0.05
) -> None:
    """Descend the margin inside a ball whose radius follows the boundary of each image.

    The radius shrinks while the point is adversarial and grows while it is not, ever less.
    One forward and one backward pass per image and step. The ball is always centred on the clean image. An image whose
    gradient is zero where it is not adversarial leaves the batch.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: number of steps.
        start: where to begin, shape (R, C, H, W); the clean images by default.
        growth: the first relative change of the radius; it falls to 0 along a cosine, as does the step size.
    """
    clean, norm = search.images[rows], search.norm
    points = clean.clone() if start is None else start.clone()
    radius = search.distance[rows]
    for step in range(steps):
        if not len(rows):
            return
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        margins, _, gradients = search.margins_and_gradients(points, rows, Attack.FAST_MINIMUM_NORM)
        slopes = length(gradients, DUAL[norm])
        # Where there is no gradient, only a shrinking ball can move the point.
        moving = (slopes > 0) | (margins <= 0)
        rows, clean, points, radius = rows[moving], clean[moving], points[moving], radius[moving]
        margins, gradients, slopes = margins[moving], gradients[moving], slopes[moving]
        radius = _next_radius(search, rows, points, margins, slopes, radius, growth * cosine)
        step_size = STEP_SIZE[norm] * (0.01 + 0.99 * cosine)
        moved = points - step_size * steepest(gradients, "l2") - clean
        points = (clean + project(moved, norm, radius)).clamp(0, 1)
    if steps and len(rows):
        search.margins(points, rows, Attack.FAST_MINIMUM_NORM)


def _next_radius(
    search: Search, rows: Tensor, points: Tensor, margins: Tensor, slopes: Tensor, radius: Tensor, growth: float
) -> Tensor:
    best = search.distance[rows]
    shrunk = torch.minimum(radius * (1 - growth), best)
    grown = radius * (1 + growth)
    # As long as nothing is found, the linearised boundary is the estimate.
    estimated = length(points - search.images[rows], search.norm) + margins / slopes
    return torch.where(margins <= 0, shrunk, torch.where(best.isinf(), estimated, grown))
