"""Conversion between the results of a batch, stored as columns of tensors, and the row of one image."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor

from metrics import Attack, Status

Row = TypeVar("Row")

NAMES = {"Tensor": Tensor, "Status": Status, "Attack": Attack}
"""Types that the files of metrics name without importing torch."""


def image_row(kind: type[Row], values: Mapping[str, Tensor], **given: Any) -> Row:
    """The row of one image: each value is converted to the type of the field of the same name.

    Args:
        kind: the type of the row, a frozen dataclass.
        values: values of the image, by column.
        given: values for fields that are not columns; names without a field are ignored.
    """
    hints = get_type_hints(kind, localns=NAMES)
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: _value(hints[name], values[name]) if name in values else given[name] for name in names})


def _value(kind: Any, value: Tensor) -> Any:
    if kind is Tensor:
        return value
    if kind is str:
        return bytes(value[value > 0].tolist()).decode(errors="replace")
    return kind(int(value)) if kind in (Status, Attack) else kind(value)


def stored_columns(columns: Mapping[str, Any], count: int, metric: str) -> dict[str, Tensor]:
    """The columns of a batch of `count` images as tensors, for the store; those that are None are left out.

    Raises:
        ValueError: for a column that has not one value for each image.
    """
    found = {name: _tensor(column) for name, column in columns.items() if column is not None}
    for name, column in found.items():
        if column.dim() < 1 or len(column) != count:
            raise ValueError(
                f"got column {name!r} of {metric} of shape {tuple(column.shape)}, expected ({count}, ...): a value for "
                "each image of the batch"
            )
    return found


def _tensor(column: Any) -> Tensor:
    if isinstance(column, Tensor):
        # A copy: one tensor under two names could not be stored.
        return column.detach().clone()
    if column and all(isinstance(value, str) for value in column):
        return of_texts(column)
    return torch.as_tensor(column)


def of_texts(texts: Sequence[str]) -> Tensor:
    """Texts as a tensor, for the store: uint8, shape (N, length), cut to 300 bytes and padded with 0.

    Example:
        >>> of_texts(["a", ""])
        tensor([[97],
                [ 0]], dtype=torch.uint8)
    """
    encoded = [text.encode()[:300] for text in texts]
    longest = max(1, *(len(text) for text in encoded)) if encoded else 1
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in encoded], dtype=torch.uint8)
