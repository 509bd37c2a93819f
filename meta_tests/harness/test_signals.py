"""A run that is stopped: by Ctrl-C on a terminal, where all processes get it, or by a CI that cancels it."""

import json
import os
import signal
import subprocess
import time

import pytest

from meta_tests.conftest import environment
from robustness_tests.harness.signals import to_the_end

# A process that a script starts in the background ignores Ctrl-C, and so do all that it starts.
pytestmark = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="this process was started so that it ignores Ctrl-C"
)
RUN = ("--images", "20", "--norms", "linf", "--certify", "off", "--against", "robust")


def stored(gate):
    return {path.name for path in gate.results_folder.rglob("*.safetensors")}


def stop(gate, *numbers, workers, whole_group=True):
    """Send signals in the second batch, and return the exit status, the stored files at the first, and the output."""
    with (gate.folder / "output").open("w") as output:
        process = subprocess.Popen(
            gate.command(workers, *RUN),
            cwd=gate.folder,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while not stored(gate):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)  # into the next batch, CLEVER's, which takes seconds
    before = stored(gate)
    for number in numbers:
        (os.killpg if whole_group else os.kill)(process.pid, number)
        time.sleep(0.3)
    try:
        status = process.wait(90)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            left = "a process is left"
        except ProcessLookupError:
            left = ""
    assert not left
    return status, before, (gate.folder / "output").read_text()


@pytest.mark.parametrize(
    ("number", "workers", "whole_group"),
    [
        (signal.SIGINT, "-n0", True),
        (signal.SIGTERM, "-n0", False),
        pytest.param(signal.SIGINT, "-n2", True, marks=pytest.mark.slow),
        (signal.SIGTERM, "-n2", True),
        pytest.param(signal.SIGTERM, "-n2", False, marks=pytest.mark.slow),
    ],
)
def test_finishes_its_batch_and_reports(gate, number, workers, whole_group):
    """Exit status 2, a report of what there is, and nothing of it measured again in the next run."""
    status, before, output = stop(gate, number, workers=workers, whole_group=whole_group)
    assert status == 2, output
    assert "robustness: interrupted: this batch is measured to its end" in output
    after = stored(gate)
    assert after > before, "the batch was finished"
    results = gate.results()
    assert (results["verdict"], results["exit_status"]) == ("interrupted", 2)
    assert any(note.startswith("Incomplete: ") for note in results["notes"])
    assert (gate.results_folder / "report.html").is_file()

    times = {path.name: path.stat().st_mtime_ns for path in gate.results_folder.rglob("*.safetensors")}
    gate("-n2", *RUN)
    again = {path.name: path.stat().st_mtime_ns for path in gate.results_folder.rglob("*.safetensors")}
    assert times.items() <= again.items()
    assert gate.results()["verdict"] in ("pass", "partial"), json.dumps(gate.results()["notes"])


def test_second_interrupt_stops_at_once(gate):
    status, before, output = stop(gate, signal.SIGINT, signal.SIGINT, workers="-n0")
    assert status == 2, output
    assert stored(gate) == before
    assert gate.results()["verdict"] == "interrupted"


def test_interrupt_of_a_batch_that_fails_is_not_lost():
    def interrupted_and_failed():
        with to_the_end(lambda _: None):
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError

    with pytest.raises(KeyboardInterrupt):
        interrupted_and_failed()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_are_restored(pytester, gate):
    """A run in a process of somebody else leaves no handler behind."""
    (gate.folder / "program.py").write_text(
        "import signal, pytest\n"
        "before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]\n"
        "pytest.main(['--quick', '-k', 'clean_accuracy'])\n"
        "assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]\n"
        "print('restored')\n"
    )
    pytester.run("python", "program.py").stdout.fnmatch_lines(["restored"])
