"""The measurement store: complete or absent, shared between processes, and never a number of something else."""

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from safetensors.torch import save_file

from robustness_tests.harness import store as store_module
from robustness_tests.harness.store import Key, Store

KEY = Key(
    metric="clever",
    metric_code="c0de",
    parameters={"radius": 0.25},
    model="robust",
    model_digest="d1",
    dataset="digits",
    dataset_digest="d2",
    norm="linf",
    first=0,
    last=20,
    seed=0,
    dtype="torch.float32",
    device="cpu AVX2",
    torch="2.15.0",
)


def measure(value):
    return lambda: {"score": torch.tensor([value]), "status": torch.tensor([3])}


def test_second_fetch_reads_what_the_first_measured(tmp_path):
    first, from_before = Store(tmp_path, started=0).fetch(KEY, measure(0.1))
    assert not from_before
    second, from_before = Store(tmp_path, started=0).fetch(KEY, measure(0.2))
    assert not from_before, "another worker of this run has measured it"
    third, from_before = Store(tmp_path, started=time.time() + 1).fetch(KEY, measure(0.3))
    assert from_before
    assert torch.equal(first["score"], second["score"])
    assert torch.equal(first["score"], third["score"])
    assert second["status"].dtype == torch.int64


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Key)])
def test_another_value_of_anything_is_another_number(tmp_path, field):
    store = Store(tmp_path, started=0)
    store.fetch(KEY, measure(0.1))
    value = getattr(KEY, field)
    other = {"radius": 0.5} if isinstance(value, dict) else value + 1 if isinstance(value, int) else f"{value}x"
    found, _ = store.fetch(dataclasses.replace(KEY, **{field: other}), measure(0.2))
    assert float(found["score"]) == pytest.approx(0.2)


def test_fresh_run_does_not_read_what_is_older(tmp_path):
    Store(tmp_path, started=0).fetch(KEY, measure(0.1))
    fresh = Store(tmp_path, started=time.time() + 1, fresh=True)
    found, from_before = fresh.fetch(KEY, measure(0.2))
    assert (float(found["score"]), from_before) == (pytest.approx(0.2), False)


def flipped(path):
    """One bit of the last value."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_batch(path):
    Store(path.parents[2], started=0).fetch(dataclasses.replace(KEY, seed=1), measure(0.7))
    path.unlink()
    (other,) = path.parent.glob("*.safetensors")
    other.replace(path)


def without_digest(path):
    save_file({"score": torch.tensor([0.5])}, path, metadata={"sha256 and key": f" {KEY.text()}"})


DAMAGE = {
    "text": (lambda path: path.write_bytes(b"not a file of tensors"), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3]), "is damaged"),
    "one bit": (flipped, "its content has changed"),
    "another batch": (of_another_batch, "it is of another batch"),
    "no digest": (without_digest, "its content has changed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_is_put_aside_and_measured_again(tmp_path, name):
    damage, reason = DAMAGE[name]
    store = Store(tmp_path, started=0)
    store.fetch(KEY, measure(0.1))
    path = tmp_path / KEY.path()
    damage(path)
    content = path.read_bytes()
    with pytest.warns(UserWarning, match=reason) as warned:
        found, _ = store.fetch(KEY, measure(0.2))
    assert len(warned) == 1
    assert float(found["score"]) == pytest.approx(0.2)
    assert path.with_suffix(".damaged").read_bytes() == content
    assert float(store.fetch(KEY, measure(0.3))[0]["score"]) == pytest.approx(0.2), "stored again, without a warning"


def test_every_kind_of_tensor_is_read_as_it_was_written(tmp_path):
    tensors = {
        "image": torch.rand(2, 3, 4, 4, dtype=torch.double),
        "score": torch.tensor([torch.nan, torch.inf]),
        "flag": torch.tensor([True, False]),
        "number": torch.tensor(7),
        "nothing": torch.empty(0, 3),
    }
    Store(tmp_path, started=0).fetch(KEY, lambda: tensors)
    found, _ = Store(tmp_path, started=0).fetch(KEY, measure(0.2))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_equal_batches_are_equal_files(tmp_path):
    written = set()
    for number in range(8):
        Store(tmp_path / str(number), started=0).fetch(KEY, measure(0.1))
        written.add((tmp_path / str(number) / KEY.path()).read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_usual_permissions(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        Store(tmp_path, started=0).fetch(KEY, measure(0.1))
    finally:
        assert os.umask(before) == mask
    path = tmp_path / KEY.path()
    assert [one.stat().st_mode & 0o777 for one in (path, path.with_suffix(".lock"))] == [mode, mode]


def test_numbers_are_reported_though_the_disk_is_full(tmp_path, monkeypatch):
    def full(tensors, filename, metadata):
        filename.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "save_file", full)
    store = Store(tmp_path, started=0)
    with pytest.warns(UserWarning, match=r"is reported, but not stored, .* again: .*No space left on device"):
        found, _ = store.fetch(KEY, measure(0.1))
    assert float(found["score"]) == pytest.approx(0.1)
    assert [path.suffix for path in (tmp_path / KEY.path()).parent.iterdir()] == [".lock"]


def read_only(folder):
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs a file system that root cannot write to")


def test_numbers_are_reported_though_the_store_is_read_only(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    read_only(folder)
    try:
        with pytest.warns(UserWarning, match=r"is reported, but not stored, .* again: .*(denied|Read-only)") as warned:
            found, _ = Store(folder, started=0).fetch(KEY, measure(0.1))
        assert float(found["score"]) == pytest.approx(0.1)
        assert len(warned) == 1
    finally:
        if not os.geteuid():
            subprocess.run(["umount", folder], check=True)
        folder.chmod(0o755)


def test_numbers_are_reported_though_a_file_is_in_the_way(tmp_path):
    (tmp_path / KEY.metric).write_text("a file")
    with pytest.warns(UserWarning, match="is reported, but not stored"):
        found, _ = Store(tmp_path, started=0).fetch(KEY, measure(0.1))
    assert float(found["score"]) == pytest.approx(0.1)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_a_store(tmp_path, monkeypatch, code):
    def no_lock(_descriptor, _operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.warns(UserWarning, match="has no file locks") as warned:
        Store(tmp_path, started=0).fetch(KEY, measure(0.1))
    assert len(warned) == 1
    assert float(Store(tmp_path, started=0).fetch(KEY, measure(0.2))[0]["score"]) == pytest.approx(0.1)
    assert {path.suffix for path in (tmp_path / KEY.path()).parent.iterdir()} <= {".safetensors", ".lock"}


def test_two_machines_that_do_not_see_each_others_lock_store_one_batch(tmp_path, monkeypatch):
    def and_the_other_one(*arguments, **keywords):
        save_file(*arguments, **keywords)
        assert start(tmp_path, 0, 0.5).communicate(timeout=60)[0].split() == ["0.5"]

    monkeypatch.setattr(fcntl, "flock", lambda _descriptor, _operation: None)
    monkeypatch.setattr(store_module, "save_file", and_the_other_one)
    with warnings.catch_warnings(action="error"):
        found, _ = Store(tmp_path, started=0).fetch(KEY, measure(0.5))
    assert float(found["score"]) == pytest.approx(0.5)
    assert {path.suffix for path in (tmp_path / KEY.path()).parent.iterdir()} == {".safetensors", ".lock"}


def test_failed_measurement_leaves_nothing(tmp_path):
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(tmp_path, started=0).fetch(KEY, fail)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert float(Store(tmp_path, started=0).fetch(KEY, measure(0.1))[0]["score"]) == pytest.approx(0.1)


WORKER = """
import sys, time, pathlib, torch
from meta_tests.harness.test_store import KEY
from robustness_tests.harness.store import Store
folder, seconds, value = pathlib.Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
def measure():
    (folder / f"measuring-{value}").touch()
    time.sleep(seconds)
    return {"score": torch.tensor([value])}
found, _ = Store(folder, started=0).fetch(KEY, measure)
print(float(found["score"]))
"""


def start(folder, seconds, value):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(seconds), str(value)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def wait_for(path):
    deadline = time.time() + 60
    while not path.exists():
        assert time.time() < deadline, f"{path.name} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
def test_second_process_waits_and_reads(tmp_path):
    first = start(tmp_path, 3, 0.5)
    wait_for(tmp_path / "measuring-0.5")
    second = start(tmp_path, 3, 0.75)
    assert first.communicate(timeout=60)[0].split() == ["0.5"]
    assert second.communicate(timeout=60)[0].split() == ["0.5"]


def test_killed_process_frees_its_lock_and_leaves_no_number(tmp_path):
    first = start(tmp_path, 60, 0.5)
    wait_for(tmp_path / "measuring-0.5")
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(tmp_path, 0, 0.75)
    assert second.communicate(timeout=60)[0].split() == ["0.75"]
