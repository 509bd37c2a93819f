"""Progress on a terminal: batches measured, time left, and forward passes so far.

Workers cannot write to the terminal. Each appends the batches that it plans and those that are done to its own file.
The controller reads these files, and tqdm draws one line. This module handles what tqdm cannot: several processes of
pytest-xdist, and pytest, which writes to the same terminal and captures the output of tests.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from robustness_tests.harness.batches import batches_of
from robustness_tests.harness.run import RUN, is_worker, worker_input

FOLDER = pytest.StashKey[Path | None]()
DISPLAY = pytest.StashKey["Display"]()
SECONDS_BETWEEN_LOOKS = 0.25


@pytest.hookimpl(trylast=True)  # after the terminal's own reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """Open the folder of the progress files, if there is somebody to show it to."""
    if is_worker(config):
        folder = worker_input(config).get("robustness_progress")
        config.stash[FOLDER] = Path(folder) if folder else None
        return
    config.stash[FOLDER] = None
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.isatty and reporter.verbosity >= 0:
        folder = Path(tempfile.mkdtemp(prefix="robustness-progress-"))
        config.stash[FOLDER] = folder
        config.stash[DISPLAY] = Display(folder, reporter)
        config.pluginmanager.register(config.stash[DISPLAY], "robustness-progress-display")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder."""
    folder = None if is_worker(config) else config.stash.get(FOLDER, None)
    if folder is not None:
        config.stash[DISPLAY].stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker where to write."""
    folder = node.config.stash[FOLDER]
    node.workerinput["robustness_progress"] = str(folder) if folder else None


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write down which batches the selected tests need."""
    if session.config.stash.get(FOLDER, None) and session.items:
        _append(session.config, {"planned": sorted(batches_of(session.items, session.config.stash[RUN]))})


def batch_done(config: pytest.Config, batch: tuple[str, str, str, int], *, stored: bool) -> None:
    """Write down that a batch is there, measured in this run or before."""
    if config.stash.get(FOLDER, None):
        _append(config, {"done": [batch], "stored": stored})


class PassCounter:
    """Records forward passes while a batch is measured, which takes minutes for a large model.

    Attributes:
        config: pytest's configuration in this process.
        passes: number of passes so far.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.passes = 0
        self._written = 0.0

    def __call__(self, passes: int) -> None:
        """Add this number of passes."""
        self.passes += passes
        if time.monotonic() - self._written > SECONDS_BETWEEN_LOOKS and self.config.stash.get(FOLDER, None):
            self._written = time.monotonic()
            _append(self.config, {"passes": self.passes})


def _append(config: pytest.Config, event: dict[str, Any]) -> None:
    folder = config.stash[FOLDER]
    if folder is None:
        return
    with (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def read_progress(folder: Path) -> tuple[int, int, int, int]:
    """Batches planned, batches that were stored, batches measured, and forward passes, by the files of a folder."""
    planned: set[tuple[Any, ...]] = set()
    done: dict[tuple[Any, ...], bool] = {}
    passes = 0
    for file in folder.glob("*.jsonl"):
        of_file = 0
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that is just being written
            of_file = max(of_file, event.get("passes", 0))
            planned |= {tuple(batch) for batch in event.get("planned", [])}
            for batch in event.get("done", []):
                done[tuple(batch)] = event["stored"]
        passes += of_file
    stored = sum(done.values())
    return len(planned | set(done)), stored, len(done) - stored, passes


class Display:
    """One line below the output of pytest, drawn by a thread and taken away whenever pytest writes."""

    def __init__(self, folder: Path, reporter: pytest.TerminalReporter) -> None:
        self.folder = folder
        self.reporter = reporter
        # A separate stream to the terminal, since pytest redirects standard output while a test runs.
        self.terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._draw_until_stopped, daemon=True)
        self.bar: tqdm[Any] | None = None
        self.planned = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Begin to draw."""
        self.thread.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logstart(self) -> Iterator[None]:
        """Make way for pytest's own output."""
        return (yield from self._aside())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self) -> Iterator[None]:
        """Make way for pytest's own output."""
        return (yield from self._aside())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logfinish(self) -> Iterator[None]:
        """Make way for pytest's own output."""
        return (yield from self._aside())

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Suppress pytest's dots while there is a progress line: they would overwrite each other."""
        status: Any = yield
        replaced = status and self.planned and self.reporter.verbosity == 0
        return (status[0], "", status[2]) if replaced else status

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Take the line away before the summary."""
        self.stop()

    def stop(self) -> None:
        """Stop drawing."""
        if self.terminal.closed:
            return
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()
        with self.lock:
            if self.bar is not None:
                self.bar.close()
                self.bar = None
        self.terminal.close()

    def _aside(self) -> Iterator[Any]:
        with self.lock:
            if self.bar is not None:
                self.bar.clear()
            return (yield)

    def _draw_until_stopped(self) -> None:
        while not self.stopped.wait(SECONDS_BETWEEN_LOOKS):
            planned, stored, measured, passes = read_progress(self.folder)
            with self.lock:
                self.planned = planned
                self._draw(planned - stored, measured, passes)

    def _draw(self, total: int, done: int, passes: int) -> None:
        if self.bar is None:
            if done == total:
                return
            self.reporter.ensure_newline()
            self.bar = tqdm(
                total=total,
                file=self.terminal,
                leave=False,
                bar_format="measuring: {n_fmt} of {total_fmt} batches |{bar}| {elapsed}, {remaining} left{postfix}",
            )
        # Not tqdm's dynamic width: it draws nothing on a terminal of unknown size, as in a container.
        self.bar.ncols = shutil.get_terminal_size().columns
        self.bar.set_postfix_str(f"{passes:,} forward passes", refresh=False)
        self.bar.total, self.bar.n = total, done
        if done == total:
            self.bar.clear()
        else:
            self.bar.refresh()
