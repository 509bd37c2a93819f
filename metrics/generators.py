"""A random generator for each image, so that its numbers do not depend on the other images, or on the device.

Every number is drawn on the CPU and copied: a GPU would draw others from the same seed.
"""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SEED = 2**63 - 1


def generators_of(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    """One generator for each of `count` images, on the CPU: all with the same seed, or with a seed each.

    Raises:
        ValueError: if there is not one seed for each image, or a seed is not a whole number from 0 to 2^63 - 1.
    """
    seeds = [_whole(value) for value in seed] if _is_sequence(seed) else [_whole(seed)] * count  # type: ignore[union-attr]
    if len(seeds) != count:
        raise ValueError(f"got {len(seeds)} seeds for {count} images, expected one number, or one for each image")
    return [torch.Generator().manual_seed(value) for value in seeds]


def moved(drawn: Tensor, device: torch.device) -> Tensor:
    """Copy what was drawn to the device. The CPU does not wait for a GPU to get there."""
    if device.type == "cuda":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


def _is_sequence(seed: object) -> bool:
    return hasattr(seed, "__len__") and not isinstance(seed, str | bytes) and getattr(seed, "ndim", 1) > 0


def _whole(value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the call tests the type
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise ValueError(f"got seed {value!r}, expected a whole number from 0 to 2^63 - 1")
    return number
