"""Random noise: needs no gradient, so masking cannot stop it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.generators import moved
from metrics.norms import per_row

RAMP = 10
"""Draws until the blend is pure noise, if none of them fools the model. This does not depend on `steps`: more steps
continue the same sequence, so they can only find nearer points."""


def random_noise(search: Search, rows: Tensor, *, steps: int, generators: Sequence[torch.Generator]) -> None:
    """Blend each image with ever stronger uniform noise until the label flips, then with weaker noise.

    Each step draws new noise. Decision-based attacks start this way (Brendel et al. 2018, section 3); here the draws go
    on after the first success. The cost is one forward pass per image and step.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: number of draws.
        generators: a source of randomness for each image of the search, on the CPU.
    """
    if not len(rows):
        return
    images, clean = rows.tolist(), search.images[rows]
    strength = torch.zeros_like(search.distance[rows])
    found = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(steps):
        strength = torch.where(found, strength, (strength + 1 / RAMP).clamp_max(1))
        draws = [torch.rand(clean.shape[1:], generator=generators[image], dtype=clean.dtype) for image in images]
        noise = moved(torch.stack(draws), clean.device)
        points = torch.lerp(clean, noise, per_row(strength, clean)).clamp(0, 1)
        fooled = search.query(points, rows, Attack.RANDOM_NOISE) <= 0
        found |= fooled
        strength = torch.where(fooled, 0.85 * strength, strength)
