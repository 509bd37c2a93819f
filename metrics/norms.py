"""The norms that perturbations are measured in, their duals, projections and uniform samples from their balls.

The first dimension of every tensor is the batch; all others are one vector.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]

NORMS: tuple[Norm, ...] = get_args(Norm)

DUAL: dict[str, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The norm of the gradient that belongs to a norm of the perturbation: |g . d| <= dual(g) * norm(d)."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """`values` of shape (N,), shaped to be broadcast over the N vectors of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def vector_norm(vectors: Tensor, norm: Norm) -> Tensor:
    """The norm of each vector, shape (N,).

    Example:
        >>> vector_norm(torch.tensor([[3.0, -4.0]]), "l2")
        tensor([5.])
    """
    flat = vectors.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1)  # several times as fast as torch.linalg.vector_norm on a CPU
    if norm == "l1":
        return torch.linalg.vector_norm(flat, ord=1, dim=1)
    if norm != "l2":
        raise ValueError(f"got norm={norm!r}, expected one of {', '.join(map(repr, DUAL))}")
    # Squares of gradients below 1e-19 would vanish in float32: networks that hide their gradients have such.
    largest = flat.abs().amax(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)
    return largest * torch.linalg.vector_norm(flat / largest[:, None], dim=1)


def project(perturbations: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """The nearest points, in Euclidean distance, of the balls around the origin with a radius for each perturbation.

    Example:
        >>> project(torch.tensor([[3.0, -4.0]]), "l2", torch.tensor([1.0]))
        tensor([[ 0.6000, -0.8000]])
        >>> project(torch.tensor([[3.0, -4.0]]), "linf", torch.tensor([3.5]))
        tensor([[ 3.0000, -3.5000]])
        >>> project(torch.tensor([[3.0, -4.0]]), "l1", torch.tensor([3.0]))
        tensor([[ 1., -2.]])
    """
    limit = per_row(radius, perturbations)
    if norm == "linf":
        return torch.minimum(torch.maximum(perturbations, -limit), limit)
    if norm == "l2":
        lengths = per_row(vector_norm(perturbations, "l2"), perturbations)
        return perturbations * (limit / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_max(1)
    if norm == "l1":
        excess = perturbations.abs() - per_row(_soft_threshold(perturbations.abs().flatten(1), radius), perturbations)
        return perturbations.sign() * excess.clamp_min(0)
    raise ValueError(f"got norm={norm!r}, expected one of {', '.join(map(repr, DUAL))}")


def _soft_threshold(magnitudes: Tensor, radius: Tensor) -> Tensor:
    """What has to be taken off every magnitude, as far as it goes, to leave a sum of `radius`; 0 where it is no more.

    Newton's method from 0: the sum is convex and piecewise linear in the threshold, so the steps never go too far and
    end at the exact solution, in some ten steps and without the sort of Duchi et al. 2008.
    """
    threshold = torch.zeros_like(radius)
    while True:
        excess = magnitudes - threshold[:, None]
        left = excess > 0
        surplus = torch.where(left, excess, 0).sum(dim=1) - radius
        further = threshold + surplus / left.sum(dim=1).clamp_min(1)
        # Rounding may let the last steps creep: what is not larger by more than that is the end.
        going_on = (surplus > 0) & (further > threshold * (1 + 4 * torch.finfo(threshold.dtype).eps))
        if not going_on.any():
            return threshold
        threshold = torch.where(going_on, further, threshold)


def steepest(gradients: Tensor, norm: Norm) -> Tensor:
    """The vectors of norm 1 along which a function with these gradients rises fastest; zero where the gradient is.

    Example:
        >>> steepest(torch.tensor([[3.0, -4.0]]), "linf")
        tensor([[ 1., -1.]])
    """
    if norm == "linf":
        return gradients.sign()
    if norm == "l2":
        lengths = per_row(vector_norm(gradients, "l2"), gradients)
        return gradients / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    raise ValueError(f"got norm={norm!r}, expected 'linf' or 'l2'")


def uniform_in_ball(
    count: int, shape: Sequence[int], norm: Norm, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`count` points drawn uniformly from the ball of radius 1, shape (count, *shape), on the generator's device.

    L2: a Gaussian direction, its length the d-th root of a uniform number. L1: of d + 1 exponential numbers, divided by
    their sum, the first d are uniform on the solid simplex (Barthe et al. 2005); signs are drawn apart.

    Example:
        >>> points = uniform_in_ball(1000, (3,), "l2", torch.Generator().manual_seed(0))
        >>> float(vector_norm(points, "l2").max()) <= 1
        True
    """
    like: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": dtype}
    size = math.prod(shape)
    if norm == "linf":
        points = torch.rand(count, size, **like) * 2 - 1
    elif norm == "l2":
        points = steepest(torch.randn(count, size, **like), "l2") * torch.rand(count, 1, **like) ** (1 / size)
    elif norm == "l1":
        # 1 - rand is in (0, 1]: its logarithm is finite.
        exponential = -torch.log(1 - torch.rand(count, size + 1, **like))
        simplex = (exponential / exponential.sum(dim=1, keepdim=True))[:, :size]
        points = torch.where(torch.rand(count, size, **like) < 0.5, simplex, -simplex)
    else:
        raise ValueError(f"got norm={norm!r}, expected one of {', '.join(map(repr, DUAL))}")
    return points.view(count, *shape)
