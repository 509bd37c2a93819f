"""The two laws that points around an image are drawn by."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metrics.norms import Norm, steepest, uniform_in_ball

Law = Literal["ball", "original"]

LAWS: tuple[Law, ...] = ("ball", "original")
"""`ball`: uniform in the ball of the norm, as the paper says. `original`: a uniform L2 direction times a length that is
uniform in [0, radius], whatever norm is scored, as the authors' code does."""


def perturbations(
    law: Law, norm: Norm, count: int, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """`count` perturbations within radius 1, shape (count, *shape), on the generator's device."""
    if law == "ball":
        return uniform_in_ball(count, shape, norm, generator, dtype)
    size = math.prod(shape)
    directions = steepest(torch.randn(count, size, generator=generator, device=generator.device, dtype=dtype), "l2")
    lengths = torch.rand(count, 1, generator=generator, device=generator.device, dtype=dtype)
    return (directions * lengths).view(count, *shape)


def covered_radius(law: Law, norm: Norm, radius: Tensor, size: int) -> Tensor:
    """The radius of the largest ball of the norm that the samples cover: beyond it they bound nothing.

    The L2 cloud of the original holds the L1 ball of the same radius, and in L-infinity one of radius / sqrt(size).

    Example:
        >>> covered_radius("original", "linf", torch.tensor([1.0]), 64)
        tensor([0.1250])
    """
    return radius / math.sqrt(size) if law == "original" and norm == "linf" else radius
