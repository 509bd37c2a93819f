"""Workers of pytest-xdist: their number, their GPU, their threads, and what happens when one dies. Imports no torch."""

import functools
import os
import shutil
import subprocess
from typing import Any

import pytest

from robustness_tests.harness.run import RUN


@functools.cache
def visible_gpus() -> tuple[str, ...]:
    """The GPUs that the caller lets us use: those of CUDA_VISIBLE_DEVICES; without it, all that the driver lists."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        # CUDA itself stops reading at the first -1.
        names = [name.strip() for name in listed.split(",")]
        return tuple(names[: names.index("-1")] if "-1" in names else [name for name in names if name])
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: a worker for each GPU, else for each core, since measuring takes one thread."""
    # Asked before pytest_configure: there is no Run yet.
    device = config.getoption("--device") or config.getini("robustness_device")
    return (0 if device == "cpu" else len(visible_gpus())) or cores()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Give each worker its GPU and its threads by environment, so that they are there before torch is imported.

    The replacement of a crashed worker inherits them.
    """
    threads = str(max(1, cores() // len(specs)))
    device = config.stash[RUN].device
    for number, spec in enumerate(specs):
        spec.env.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", threads))
        if device == "cpu":
            spec.env["CUDA_VISIBLE_DEVICES"] = ""
        elif device in ("auto", "cuda") and visible_gpus():
            spec.env["CUDA_VISIBLE_DEVICES"] = visible_gpus()[number % len(visible_gpus())]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker when the run began."""
    node.workerinput["robustness_started"] = node.config.stash[RUN].started


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """Make the test that a worker died of a row of the HTML report: pytest-html draws reports of a teardown only."""
    report.when = "teardown"
    report.duration = 0.0
