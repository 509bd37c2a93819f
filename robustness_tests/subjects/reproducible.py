"""Torch settings that make a result independent of where it is computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metrics.precision import full_precision


@contextmanager
def reproducible() -> Iterator[None]:
    """Use one thread, full precision, and deterministic kernels; restore the caller's settings at the end.

    One thread, because the number of threads changes the order of summation, and it depends on the number of workers:
    `-n 0` would differ from `-n 2` in the last bits, and attacks amplify such differences.

    Load a model in a block of its own: what its code sets then ends with the block.
    """
    threads, dtype, cudnn = torch.get_num_threads(), torch.get_default_dtype(), torch.backends.cudnn
    kernels = cudnn.benchmark, cudnn.deterministic
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with full_precision():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        cudnn.benchmark, cudnn.deterministic = kernels


def device_kind(device: torch.device) -> str:
    """The kind of device, as far as it decides about last bits: "cpu AVX512", "cuda NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def resolve_device(name: str) -> torch.device:
    """The device of an option's value; `auto` takes a GPU if torch sees one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
