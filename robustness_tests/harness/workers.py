"""Workers of pytest-xdist: their number, their GPU, their threads, and what happens when one dies. Imports no torch."""

import os
from dataclasses import asdict
from typing import Any

import pytest

from robustness_tests.harness.gpus import visible_gpus
from robustness_tests.harness.options import in_use
from robustness_tests.harness.run import CHECKED_SUBJECTS, IN_USE, RUN


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: a worker for each GPU, else for each core, since measuring takes one thread."""
    if not in_use(config):
        return None
    # Asked before pytest_configure: there is no Run yet.
    device = config.getoption("robustness_device") or config.getini("robustness_device") or "auto"
    return (0 if device == "cpu" else len(visible_gpus())) or cores()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Keep the tests of a batch on one worker, as the ini file of a checkout does, unless `--dist` is given."""
    if getattr(config.option, "dist", "") == "no" and getattr(config.option, "numprocesses", None) and in_use(config):
        config.option.dist = "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Set the GPU and threads of each worker in its environment, before it imports torch.

    A worker that replaces a crashed one inherits them.
    """
    if not config.stash[IN_USE]:
        return
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
    """Send each worker the start time of the run and the checked models and data, so that it does not check again."""
    run = node.config.stash[RUN]
    node.workerinput["robustness_started"] = run.started
    node.workerinput["robustness_looks"] = asdict(run.looks) if run.looks else None
    node.workerinput["robustness_subjects"] = node.config.stash[CHECKED_SUBJECTS].to_json()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """Show the test that crashed a worker in the HTML report: pytest-html makes rows of teardown reports only."""
    report.when = "teardown"
    report.duration = 0.0
