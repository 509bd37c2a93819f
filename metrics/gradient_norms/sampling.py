"""The ways in which points around an image are sampled."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from metrics.norms import Norm, steepest, uniform_in_ball

Sampling = Literal["ball", "original", "walks"]

SAMPLINGS: tuple[Sampling, ...] = ("ball", "original", "walks")
"""`ball`: uniform in the ball of the norm, as in the paper. `original`: a uniform L2 direction times a length that is
uniform in [0, radius], whatever the norm of the score, as in the authors' code. `walks`: from points that are uniform
in a smaller ball, a few steps down the margin."""


def perturbations(
    sampling: Sampling, norm: Norm, count: int, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """`count` perturbations within radius 1, shape (count, *shape), on the CPU; of walks, their starts."""
    if sampling != "original":
        return uniform_in_ball(count, shape, norm, generator, dtype)
    size = math.prod(shape)
    directions = steepest(torch.randn(count, size, generator=generator, dtype=dtype), "l2")
    lengths = torch.rand(count, 1, generator=generator, dtype=dtype)
    return (directions * lengths).view(count, *shape)


def covered_radius(sampling: Sampling, norm: Norm, radius: Tensor, size: int) -> Tensor:
    """The radius of the largest ball of the norm that the samples cover. No samples support a score beyond it.

    The `original` samples cover the L2 ball. It contains the L1 ball of the same radius, and the L-infinity ball of
    radius / sqrt(size).

    Example:
        >>> covered_radius("original", "linf", torch.tensor([1.0]), 64)
        tensor([0.1250])
    """
    return radius / math.sqrt(size) if sampling == "original" and norm == "linf" else radius
