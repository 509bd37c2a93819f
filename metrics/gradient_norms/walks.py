"""Walks down the margin, from random points of a ball around an image towards where the label changes.

The steep places of a network are a small part of a ball in many dimensions, and random points miss them. Between an
image and the nearest label change there must be one: the margin has to fall to 0 there.
"""

import torch
from torch import Tensor

from metrics.box import steepest_descent
from metrics.norms import Norm, project

STEPS = 6
"""Steps of a walk. With its start, a walk has seven points."""

LENGTH = 0.3
"""Length of a step, as a share of the radius of the ball."""


def stepped(points: Tensor, gradients: Tensor, images: Tensor, radii: Tensor, norm: Norm) -> Tensor:
    """Return the next point of each walk, within its ball and [0, 1], of the shape of `points`.

    Args:
        points: where the walks are, shape (P, C, H, W), values in [0, 1].
        gradients: the gradients of the margins there, of the shape of `points`. A walk stays where its gradient is zero
            or not finite.
        images: the centres of the balls, of the shape of `points`.
        radii: of the balls, shape (P,).
        norm: of the balls.

    Example:
        The gradient is 1 for both values. A step goes 0.3 radii, but not out of [0, 1].

        >>> point = torch.tensor([[[[0.2, 0.4]]]])
        >>> stepped(point, torch.ones_like(point), point, torch.tensor([1.0]), "linf")
        tensor([[[[0.0000, 0.1000]]]])
    """
    gradients = torch.where(gradients.isfinite(), gradients, 0)
    moved = (points + steepest_descent(points, gradients, LENGTH * radii, norm)).clamp(0, 1)
    return (images + project(moved - images, norm, radii)).clamp(0, 1)


def free_values(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw the values that each step of `count` walks in L1 may move: a half, bool, shape (count, STEPS, size).

    A step in L1 moves few values, and random starts hardly differ from the image, because the ball is small in each of
    them. Without this, all walks would be the same.
    """
    return torch.randint(2, (count, STEPS, size), generator=generator, dtype=torch.bool)
