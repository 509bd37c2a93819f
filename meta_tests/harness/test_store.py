"""The measurement store: complete or absent, shared between processes, and never a number of something else."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

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


def test_damaged_file_is_measured_again(tmp_path):
    store = Store(tmp_path, started=0)
    store.fetch(KEY, measure(0.1))
    (tmp_path / KEY.path()).write_bytes(b"not a file of tensors")
    with pytest.warns(UserWarning, match="is damaged"):
        found, _ = store.fetch(KEY, measure(0.2))
    assert float(found["score"]) == pytest.approx(0.2)
    assert float(store.fetch(KEY, measure(0.3))[0]["score"]) == pytest.approx(0.2)


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
