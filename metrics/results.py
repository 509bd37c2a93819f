"""Results: frozen dataclasses of tensors whose first dimension is the image."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def concatenate(parts: Sequence[Result]) -> Result:
    """Join several results into one for all images, in order. Fields that are None in the first part are left out."""
    first: Any = parts[0]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(first)}
    joined = {name: _joined(column) for name, column in columns.items() if column[0] is not None}
    return type(first)(**joined)


def _joined(column: Sequence[Any]) -> Any:
    if isinstance(column[0], tuple):
        return tuple(value for part in column for value in part)
    return torch.cat(list(column))
