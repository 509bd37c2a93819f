"""Conversion of recorded values to plain Python: pytest-xdist cannot send other types, and JSON has no NaN."""

import math
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """A value as None, bool, int, float, str, list or dict; NaN and infinities as None.

    Example:
        >>> plain({"distance": float("inf"), "norms": ("linf", "l2")})
        {'distance': None, 'norms': ['linf', 'l2']}
    """
    if isinstance(value, Enum):
        return value.name.lower()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars, without importing either library
        return plain(value.tolist())
    raise TypeError(f"got a value of {type(value).__name__} to record, expected numbers, text, or lists of them")
