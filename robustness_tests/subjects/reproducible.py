"""Torch settings that make a result independent of where it is computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible() -> Iterator[None]:
    """Use one thread, float32 without TF32, and deterministic kernels; restore the caller's settings at the end.

    One thread, because the number of threads changes the order of summation, and it depends on the number of workers:
    `-n 0` would differ from `-n 2` in the last bits, and attacks amplify such differences.
    """
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn
    flags = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with flags:
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = matmul


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
