"""Arithmetic in the precision of the tensors, whatever the process allows its matrix products and convolutions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_BACKENDS = [
    getattr(backend, part)
    for backend, parts in (
        (torch.backends.cuda, ("matmul",)),
        (torch.backends.cudnn, ("conv", "rnn")),
        (torch.backends.mkldnn, ("matmul", "conv", "rnn")),
    )
    for part in parts
    if hasattr(getattr(backend, part, None), "fp32_precision")
]
"""The operations whose precision torch lets one choose; none in older releases."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 and bfloat16 in float32 arithmetic, on GPUs and CPUs; restore the caller's settings at the end.

    `torch.set_float32_matmul_precision("medium")`, which many training scripts call, allows bfloat16 on a CPU: products
    of 300 terms are then wrong by 0.2 instead of 0.00005. Neither rounding slacks nor certificates cover that.

    torch has an older and a newer interface for these settings, and raises a RuntimeError when a process reads the
    older one after it wrote the newer one. So both are set, and the older one is restored only if it could be read.
    """
    matmul, convolutions = _readable(torch.get_float32_matmul_precision), _readable(_convolutions_allow_tf32)
    before = [backend.fp32_precision for backend in _BACKENDS]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for backend in _BACKENDS:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        for backend, precision in zip(_BACKENDS, before, strict=True):
            backend.fp32_precision = precision


def _convolutions_allow_tf32() -> bool:
    return torch.backends.cudnn.allow_tf32


def _readable(setting: Callable[[], Any]) -> Any:
    try:
        return setting()
    except RuntimeError:
        return None
