"""Make `torch.load` read weights only, so that it never unpickles code, no matter which library calls it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

MAKES_A_SCALAR: Any = np.float64(0).__reduce__()[0]
NUMBERS_OF_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
    *((MAKES_A_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What published checkpoints contain besides tensors, for example an accuracy. Unpickling a number runs no code."""


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every `torch.load` refuse pickles with anything but tensors and numbers, whatever its caller passes.

    timm and torch.hub pass `weights_only=False`; the environment variable overrides that.
    """
    before = {name: os.environ.pop(name, None) for name in (FORCE, FORCE_NOT)}
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(NUMBERS_OF_NUMPY):
            yield
    finally:
        del os.environ[FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})
