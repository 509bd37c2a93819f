"""A source of randomness for each image, so that its numbers do not depend on its neighbours."""

from collections.abc import Sequence

import torch


def generators_of(seed: int | Sequence[int], count: int, device: torch.device) -> list[torch.Generator]:
    """One generator for each of `count` images, on `device`: all with the same seed, or with a seed each.

    Raises:
        ValueError: if there is not one seed for each image.
    """
    seeds = [seed] * count if isinstance(seed, int) else [int(value) for value in seed]
    if len(seeds) != count:
        raise ValueError(f"got {len(seeds)} seeds for {count} images, expected one number, or one for each image")
    return [torch.Generator(device=device).manual_seed(value) for value in seeds]
