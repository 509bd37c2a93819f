"""Workers: which GPU and how many threads each gets, and that the caller's own choice of GPUs is kept."""

import os
from types import SimpleNamespace

import pytest

from robustness_tests.harness import workers
from robustness_tests.harness.gpus import visible_gpus
from robustness_tests.harness.run import IN_USE, RUN


@pytest.fixture
def gpus(monkeypatch):
    """Let the caller have set CUDA_VISIBLE_DEVICES."""

    def listed(text):
        visible_gpus.cache_clear()
        if text is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)

    yield listed
    visible_gpus.cache_clear()


def config_with(device):
    return SimpleNamespace(stash={IN_USE: True, RUN: SimpleNamespace(device=device)})


def specs(count):
    return [SimpleNamespace(env={}) for _ in range(count)]


MIG = "MIG-7f2c9c1e-1b0a-5f3e-9d53-0f6b2a1d8c11"


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("4,7", ("4", "7")),
        ("", ()),
        ("-1", ()),
        ("2,-1,3", ("2",)),
        ("GPU-8a1f", ("GPU-8a1f",)),
        (f"{MIG}, GPU-8a1f", (MIG, "GPU-8a1f")),
    ],
)
def test_list_of_the_caller_is_what_counts(gpus, listed, expected):
    gpus(listed)
    assert visible_gpus() == expected


def test_without_a_list_the_driver_is_asked(gpus, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gpus(None)
    assert visible_gpus() == ("0", "1", "2")


def test_broken_driver_is_no_gpu(gpus, tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    gpus(None)
    assert visible_gpus() == ()


def test_workers_take_the_gpus_of_the_caller_in_turn(gpus):
    gpus("4,7")
    three = specs(3)
    workers.pytest_xdist_setupnodes(config_with("auto"), three)
    assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in three] == ["4", "7", "4"]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_four_workers_on_any_number_of_gpus(gpus, count, device):
    """More workers than GPUs share them evenly; of more GPUs, the first four are used."""
    gpus(",".join(f"GPU-{number}" for number in range(count)))
    four = specs(4)
    workers.pytest_xdist_setupnodes(config_with(device), four)
    used = [spec.env["CUDA_VISIBLE_DEVICES"] for spec in four]
    assert used == [f"GPU-{number % count}" for number in range(4)]


def test_a_named_gpu_is_not_renumbered(gpus):
    gpus("4,7")
    two = specs(2)
    workers.pytest_xdist_setupnodes(config_with("cuda:1"), two)
    assert all("CUDA_VISIBLE_DEVICES" not in spec.env for spec in two)


def test_on_the_cpu_no_gpu_is_seen(gpus):
    gpus("4,7")
    (one,) = specs(1)
    workers.pytest_xdist_setupnodes(config_with("cpu"), [one])
    assert one.env["CUDA_VISIBLE_DEVICES"] == ""


def test_cores_are_shared_out(gpus, monkeypatch):
    gpus("")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers, "cores", lambda: 16)
    four, many = specs(4), specs(40)
    workers.pytest_xdist_setupnodes(config_with("auto"), four)
    workers.pytest_xdist_setupnodes(config_with("auto"), many)
    assert {spec.env["OMP_NUM_THREADS"] for spec in four} == {"4"}
    assert {spec.env["OMP_NUM_THREADS"] for spec in many} == {"1"}


@pytest.mark.parametrize(("listed", "device", "expected"), [("4,7", "auto", 2), ("4,7", "cpu", 6), ("", "auto", 6)])
def test_number_of_workers_by_itself(gpus, monkeypatch, listed, device, expected):
    gpus(listed)
    monkeypatch.setattr(workers, "cores", lambda: 6)
    options = {"robustness_device": device}
    config = SimpleNamespace(getoption=lambda _: None, getini=options.get)
    assert workers.pytest_xdist_auto_num_workers(config) == expected


def test_automatic_number_of_workers_runs(gate):
    result = gate("-n", "auto", "--quick", "--images", "5", "--batch-size", "5", "--norms", "l2", "-k", "00001")
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"created: {workers.cores()}/{workers.cores()} worker*"])


def test_worker_has_its_threads_before_torch_is_imported(gate):
    (gate.folder / "test_threads.py").write_text(
        "import os, sys\n"
        "IMPORTED = 'torch' in sys.modules\n"
        "def test_threads():\n"
        "    import torch\n"
        "    assert not IMPORTED\n"
        f"    assert os.environ['OMP_NUM_THREADS'] == '{max(1, workers.cores() // 2)}'\n"
        "    assert torch.get_num_threads() == int(os.environ['OMP_NUM_THREADS'])\n"
    )
    assert gate("-n2", "test_threads.py").ret == 0
