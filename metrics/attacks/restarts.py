"""Starts around the best point so far, so that one descent after another ends in another local minimum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metrics.attacks.search import Search
from metrics.norms import per_row, vector_norm

NOISE = 3.0
"""Length of the noise, in lengths of the best perturbation: less falls back into the same minimum too often."""


def noisy_starts(search: Search, rows: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The best adversarial points with Gaussian noise, three times as long in L2 as their perturbations, in the box.

    Args:
        search: the images and their best points.
        rows: indices of images that have an adversarial point, shape (R,).
        generators: a source of randomness for each image of the search, on its device.

    Returns:
        Starting points, shape (R, C, H, W).
    """
    best = search.adversarial[rows]
    like: dict[str, Any] = {"device": best.device, "dtype": best.dtype}
    noise = torch.stack([torch.randn(best.shape[1:], generator=generators[row], **like) for row in rows.tolist()])
    scale = NOISE * vector_norm(best - search.images[rows], "l2") / vector_norm(noise, "l2")
    return (best + per_row(scale, noise) * noise).clamp(0, 1)


def random_starts(search: Search, rows: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Points drawn uniformly from the box, shape (R, C, H, W): where the gradient is zero around the image."""
    shape = search.images.shape[1:]
    like: dict[str, Any] = {"device": search.images.device, "dtype": search.images.dtype}
    return torch.stack([torch.rand(shape, generator=generators[row], **like) for row in rows.tolist()])
