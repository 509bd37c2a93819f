"""Archives that claim to be larger than they may be: a small file can unpack to more than the memory of the machine."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np


def check_archive(file: Path) -> None:
    """Refuse an npz whose arrays are larger than the memory, before any is read. Other files pass.

    Raises:
        ValueError: if they are, or if an array is not as large as its own header says, or for a single array.
        OSError: if the file cannot be read.
    """
    if not zipfile.is_zipfile(file):
        with file.open("rb") as opened:
            if opened.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise ValueError("a single array; numpy.savez writes several")
        return
    total = 0
    with zipfile.ZipFile(file) as archive:
        for name in ("images", "images.npy", "labels", "labels.npy"):  # numpy takes either
            if name in archive.namelist():
                total += _size(archive, name)
    if total > memory():
        raise ValueError(f"arrays of {total / 1e9:,.1f} GB, more than the {memory() / 1e9:,.1f} GB of this machine")


def _size(archive: zipfile.ZipFile, name: str) -> int:
    """The bytes of an array, from its header."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        stated, there = math.prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - file.tell()
    if not dtype.hasobject and stated != there:
        raise ValueError(f"{name} has {there} bytes, and its header says {stated}")
    return stated


def memory() -> int:
    """The memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
