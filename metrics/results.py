"""Results: frozen dataclasses of tensors whose first dimension is the image."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def concatenate(parts: Sequence[Result]) -> Result:
    """One result for the images of several, in their order; what the first one has not, the whole has not."""
    first: Any = parts[0]
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in fields(first)
        if getattr(first, field.name) is not None
    }
    return type(first)(**columns)
