"""Random Lp-norm corruptions: each image gets its own norm, strength, and point, uniform in that ball."""

from typing import Any, cast

import torch
from torch import Tensor

from metrics.norms import Norm, uniform_in_ball


def impulse(images: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """Replace each value by a uniform one with probability `share`, one for each image, shape (N,): L0."""
    like: dict[str, Any] = {"generator": generator, "device": images.device, "dtype": images.dtype}
    chosen = torch.rand(images.shape, **like) < share.view(-1, 1, 1, 1)
    return torch.where(chosen, torch.rand(images.shape, **like), images)


def corrupt(images: Tensor, largest: dict[str, float], generator: torch.Generator) -> Tensor:
    """Corrupt each image by one norm of `largest`, drawn at random, at a strength uniform in [0, largest[norm]].

    Args:
        images: shape (N, C, H, W), values in [0, 1].
        largest: the largest radius for each of "linf", "l2", "l1", in units of the images, and for "l0" the largest
            share of values that are replaced.
        generator: source of all randomness, on the device of the images.

    Returns:
        The corrupted images, clipped to [0, 1].
    """
    norms = list(largest)
    choice = torch.randint(len(norms), (len(images),), generator=generator, device=images.device)
    strength = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
    corrupted = images.clone()
    for index, norm in enumerate(norms):
        rows = (choice == index).nonzero().flatten()
        radius = strength[rows] * largest[norm]
        if norm == "l0":
            corrupted[rows] = impulse(images[rows], radius, generator)
        else:
            noise = uniform_in_ball(len(rows), images.shape[1:], cast("Norm", norm), generator, images.dtype)
            corrupted[rows] = images[rows] + noise * radius.view(-1, 1, 1, 1)
    return corrupted.clamp(0, 1)
