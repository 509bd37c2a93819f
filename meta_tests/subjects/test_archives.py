"""Small files that unpack to more than the memory: refused in one line, before any of it is read."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

from robustness_tests.harness.baseline import LARGEST_RESULTS, read_results
from robustness_tests.subjects import archives
from robustness_tests.subjects.datasets import npz
from robustness_tests.subjects.image_folder import image_folder


def header(shape):
    """The header of an array of bytes."""
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return written.getvalue()


def write_npz(path, shape, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header(shape) + content)
        archive.writestr("labels.npy", header((2,)) + b"\0\1")


def test_arrays_that_are_larger_than_the_memory(tmp_path, monkeypatch):
    """4 MB of zeros in a file of 4 kB, on a machine of 3 MB."""
    write_npz(tmp_path / "bomb.npz", (2, 1024, 2048), bytes(2**22))
    assert (tmp_path / "bomb.npz").stat().st_size < 2**14
    monkeypatch.setattr(archives, "memory", lambda: 3 * 2**20)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"arrays of 0\.0 GB, more than the 0\.0 GB of this machine"):
        npz(tmp_path / "bomb.npz")


def test_header_that_lies(tmp_path):
    """It says 40 TB, which numpy would try to allocate."""
    write_npz(tmp_path / "lie.npz", (40_000_000, 1024, 1024), bytes(100))
    with pytest.raises(ValueError, match=r"images\.npy has 100 bytes, and its header says 41943040000000") as raised:
        npz(tmp_path / "lie.npz")
    assert "expected arrays 'images' and 'labels' of numbers" in str(raised.value)


def test_array_under_the_other_name(tmp_path, monkeypatch):
    """numpy also takes a member without .npy."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images", header((2, 1024, 2048)) + bytes(2**22))
        archive.writestr("labels", header((2,)) + b"\0\1")
    monkeypatch.setattr(archives, "memory", lambda: 3 * 2**20)
    with pytest.raises(ValueError, match=r"more than the 0\.0 GB of this machine"):
        npz(tmp_path / "bomb.npz")


def test_single_array_is_refused_before_it_is_read(tmp_path):
    """Its header claims 40 TB."""
    (tmp_path / "x.npz").write_bytes(header((40_000_000, 1024, 1024)))
    with pytest.raises(ValueError, match="a single array; "):
        npz(tmp_path / "x.npz")


def test_header_that_is_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\1\0\x10\0{'descr': (((    ")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        npz(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_usual_archives_pass(tmp_path, save):
    save(tmp_path / "some.npz", images=np.full((6, 8, 8, 3), 128, np.uint8), labels=np.ones(6, np.int64), more=[1, 2])
    assert len(npz(tmp_path / "some.npz").labels) == 6
    assert archives.memory() > 2**28


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_picture_of_more_pixels_than_pillow_allows(tmp_path):
    """A PNG of 60,000 x 60,000 pixels in 100 bytes."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ValueError, match=r"huge\.png that cannot be read: .*decompression bomb"):
        image_folder(tmp_path).images[0]


def test_results_file_that_is_too_large(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), LARGEST_RESULTS + 1)
    monkeypatch.setattr(type(path), "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"got 'results\.json' of 500 MB, expected at most 500 MB"):
        read_results(path, "results.json")
