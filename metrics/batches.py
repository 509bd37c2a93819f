"""Batches that are halved when memory runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch

Part = TypeVar("Part")

CPU_MESSAGES = ("not enough memory", "can't allocate memory", "failed to allocate")
"""Parts of the messages of torch's CPU allocator, which raises an ordinary RuntimeError."""


def halving_batches(measure: Callable[[int, int], Part], count: int, batch_size: int) -> list[tuple[int, Part]]:
    """Call `measure(first, last)` for consecutive ranges of at most `batch_size`, and return (first, result) pairs.

    The ranges cover 0 to `count`. A range that does not fit into memory is measured again in halves, and later ranges
    are not larger than these halves.

    Raises:
        MemoryError: if a single image does not fit into memory.

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
