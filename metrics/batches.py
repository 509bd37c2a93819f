"""Batches that are halved where the memory does not suffice."""

from collections.abc import Callable
from typing import TypeVar

import torch

Part = TypeVar("Part")

CPU_MESSAGES = ("not enough memory", "can't allocate memory", "failed to allocate")
"""What torch's allocator on the CPU says, in an ordinary RuntimeError."""


def halving_batches(measure: Callable[[int, int], Part], count: int, batch_size: int) -> list[tuple[int, Part]]:
    """`measure(first, last)` for consecutive ranges of at most `batch_size` out of `count`, each with its first.

    A range that is too large for the memory is measured again in halves, and no later one is larger than these.

    Raises:
        MemoryError: if even one image is too many.

    Example:
        >>> halving_batches(lambda first, last: last - first, count=5, batch_size=2)
        [(0, 2), (2, 2), (4, 1)]
    """
    parts, first = [], 0
    while first < count:
        last = min(first + batch_size, count)
        try:
            parts.append((first, measure(first, last)))
            first = last
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if last - first == 1:
                raise MemoryError("got too little memory for the model and one image, expected more") from error
            batch_size = (last - first + 1) // 2
        if torch.cuda.is_available() and first < last:
            # Outside the handler: until it has ended, the traceback holds the tensors of the failed batch.
            torch.cuda.empty_cache()
    return parts


def _is_out_of_memory(error: RuntimeError) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(message in str(error).lower() for message in CPU_MESSAGES)
