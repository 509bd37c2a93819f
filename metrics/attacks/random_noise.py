"""Random noise of growing strength: needs no gradient, so masking cannot stop it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search


def random_noise(search: Search, rows: Tensor, *, steps: int, generators: Sequence[torch.Generator]) -> None:
    """Blend each image with uniform noise, a new draw at each step, ever stronger, until the label flips.

    The start that decision-based attacks use (Brendel et al. 2018, section 3). One forward pass per image and step;
    an image that is fooled leaves the batch.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: number of strengths; the last one replaces the image by noise.
        generators: a source of randomness for each image of the search, on its device.
    """
    for step in range(1, steps + 1):
        if not len(rows):
            return
        clean = search.images[rows]
        noise = torch.stack(
            [
                torch.rand(clean.shape[1:], generator=generators[row], device=clean.device, dtype=clean.dtype)
                for row in rows.tolist()
            ]
        )
        points = torch.lerp(clean, noise, step / steps).clamp(0, 1)
        rows = rows[search.margins(points, rows, Attack.RANDOM_NOISE) > 0]
