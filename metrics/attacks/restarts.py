"""Starting points of further descents, so that they end in other local minima."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.attacks.search import Search
from metrics.generators import moved
from metrics.norms import per_row, vector_norm

LONGEST, SHORTEST = 6.0, 1.0
"""L2 lengths of the noise at the first and at the last restart, relative to the best perturbation."""

KEPT_IN_L1 = 0.5
"""Share of the values of the best perturbation that a restart in L1 keeps. It consists of few values, and other minima
of other ones."""


def noise_of(restart: int, restarts: int) -> float:
    """Length of the noise at a restart. It falls geometrically, as a temperature does in simulated annealing.

    Long noise finds other minima. Short noise then finds better ones near the best.

    Example:
        >>> [round(noise_of(restart, 3), 2) for restart in range(3)]
        [6.0, 2.45, 1.0]
    """
    return LONGEST * (SHORTEST / LONGEST) ** (restart / max(1, restarts - 1))


def noisy_starts(search: Search, rows: Tensor, noise: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Add Gaussian noise to the best points, and clamp to the box. In L1, set half of the perturbation to 0 before.

    Args:
        search: the images and their best points.
        rows: indices of images that have an adversarial point, shape (R,).
        noise: L2 length of the noise, relative to that of the best perturbation.
        generators: a source of randomness for each image of the search, on the CPU.

    Returns:
        Starting points, shape (R, C, H, W).
    """
    best = search.adversarial[rows]
    draws = [torch.randn(best.shape[1:], generator=generators[row], dtype=best.dtype) for row in rows.tolist()]
    drawn = moved(torch.stack(draws), best.device)
    scale = noise * vector_norm(best - search.images[rows], "l2") / vector_norm(drawn, "l2")
    if search.norm == "l1":
        shares = [torch.rand(best.shape[1:], generator=generators[row], dtype=best.dtype) for row in rows.tolist()]
        best = torch.where(moved(torch.stack(shares), best.device) < KEPT_IN_L1, best, search.images[rows])
    return (best + per_row(scale, drawn) * drawn).clamp(0, 1)


def random_starts(search: Search, rows: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw points uniformly from the box, shape (R, C, H, W), for images with zero gradients around them."""
    shape = search.images.shape[1:]
    draws = [torch.rand(shape, generator=generators[row], dtype=search.images.dtype) for row in rows.tolist()]
    return moved(torch.stack(draws), search.images.device)
