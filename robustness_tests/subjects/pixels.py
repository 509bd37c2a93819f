"""Images that are loaded when they are asked for, so that a run on many images does not need more memory."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

KEPT = 128
"""Images that stay in memory: a few batches, since every metric asks for the batch again."""


class WrongImageError(ValueError):
    """Raised for an image that cannot be read, or does not fit the others."""


class Pixels:
    """A sequence of images, float32 in [0, 1]; a slice or a list of numbers gives a batch, shape (N, C, H, W).

    Args:
        load: from the number of an image to its values, shape (C, H, W): uint8 in 0 to 255, or floats in [0, 1].
        count: number of images.

    Example:
        >>> pixels = Pixels(lambda row: torch.full((1, 2, 2), 51 * row, dtype=torch.uint8), 3)
        >>> pixels[1:].shape, round(float(pixels[2].max()), 3), len(pixels)
        (torch.Size([2, 1, 2, 2]), 0.4, 3)
    """

    dtype = torch.float32

    def __init__(self, load: Callable[[int], Tensor], count: int) -> None:
        self._load = lru_cache(KEPT)(load)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor) -> Tensor:
        if isinstance(rows, int):
            return self._image(range(self._count)[rows])
        if isinstance(rows, Tensor):
            rows = rows.nonzero().flatten().tolist() if rows.dtype == torch.bool else rows.tolist()
        numbers = range(self._count)[rows] if isinstance(rows, slice) else [range(self._count)[row] for row in rows]
        if not numbers:
            return self._image(0)[None][:0]
        return torch.stack([self._image(number) for number in numbers])

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of `size` images, in order; the last may be smaller."""
        for first in range(0, self._count, size):
            yield self[first : first + size]

    def _image(self, number: int) -> Tensor:
        values, first = self._load(number), self._load(0)
        if values.shape != first.shape:
            sizes = " and ".join(str(tuple(one.shape)) for one in (first, values))
            raise WrongImageError(
                f"got images of shapes {sizes} (images 0 and {number}), expected one shape: --image-size=224, or "
                "--image-size=256/224, resizes image files"
            )
        return values.float().div(255) if values.dtype == torch.uint8 else values.float()
