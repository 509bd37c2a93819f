"""Norms of perturbations, their dual norms, projections onto their balls, and uniform samples from them.

The first dimension of every tensor is the batch. The other dimensions form one vector.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]

NORMS: tuple[Norm, ...] = get_args(Norm)

DUAL: dict[str, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}
"""The dual norm, for gradients, of each norm of perturbations: |g . d| <= dual(g) * norm(d)."""


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
    # Squares of gradients below 1e-19 would underflow in float32. Networks that mask gradients have such values.
    largest = flat.abs().amax(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)
    return largest * torch.linalg.vector_norm(flat / largest[:, None], dim=1)


def project(perturbations: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """Project each perturbation, in Euclidean distance, onto the ball around the origin with its radius.

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
    """Return the soft threshold that reduces the sum of magnitudes to `radius`; 0 where the sum is not larger.

    Newton's method starts at 0. The sum is convex and piecewise linear in the threshold, so the steps never overshoot
    and reach the exact solution, in about ten steps and without the sort of Duchi et al. 2008.
    """
    threshold = torch.zeros_like(radius)
    while True:
        excess = magnitudes - threshold[:, None]
        left = excess > 0
        surplus = torch.where(left, excess, 0).sum(dim=1) - radius
        further = threshold + surplus / left.sum(dim=1).clamp_min(1)
        # Rounding may make the last steps creep: stop where a step is no larger than the rounding error.
        going_on = (surplus > 0) & (further > threshold * (1 + 4 * torch.finfo(threshold.dtype).eps))
        if not going_on.any():
            return threshold
        threshold = torch.where(going_on, further, threshold)


def steepest(gradients: Tensor, norm: Norm) -> Tensor:
    """Return the vectors of norm 1 along which functions with these gradients rise fastest; 0 for a zero gradient.

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
    """Draw `count` points uniformly from the ball of radius 1, shape (count, *shape), on the CPU.

    L2: the direction is Gaussian, and the length is the d-th root of a uniform number. L1: d + 1 exponential numbers
    are divided by their sum, and the first d are uniform on the solid simplex (Barthe et al. 2005). Signs are drawn
    separately.

    Example:
        >>> points = uniform_in_ball(1000, (3,), "l2", torch.Generator().manual_seed(0))
        >>> float(vector_norm(points, "l2").max()) <= 1
        True
    """
    like: dict[str, Any] = {"generator": generator, "dtype": dtype}
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
