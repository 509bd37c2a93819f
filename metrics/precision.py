"""Arithmetic in the precision of the tensors, or in a lower one, whatever the process allows its matrix products."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

Precision = Literal["float32", "tf32", "bf16"]
"""The arithmetic of a search: that of the tensors; TF32, on a GPU; or bfloat16, by autocast, on any device."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

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
    """
    with _restored():
        _set(tf32=False)
        yield


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Allow a lower precision, and restore the caller's settings at the end. TF32 makes no difference on a CPU.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> with arithmetic("bf16", torch.device("cpu")):
        ...     layer(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    if precision == "float32":
        yield
    elif precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        with _restored():
            _set(tf32=device.type == "cuda")
            yield


def _set(*, tf32: bool) -> None:
    """Set both the older and the newer interface of torch, which raises a RuntimeError where the two disagree."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    for backend in _BACKENDS:
        backend.fp32_precision = "tf32" if tf32 else "ieee"


@contextmanager
def _restored() -> Iterator[None]:
    """Restore the settings at the end; those of the older interface only if they could be read."""
    matmul, convolutions = _readable(torch.get_float32_matmul_precision), _readable(_convolutions_allow_tf32)
    before = [backend.fp32_precision for backend in _BACKENDS]
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
    """What a setting of the older interface is; None if the process has written the newer one, and torch refuses."""
    try:
        return setting()
    except RuntimeError:
        return None
