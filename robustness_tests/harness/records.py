"""Records: what the report keeps of each test, gathered in the controller from the reports of all workers."""

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from robustness_tests.harness.collection import subject_of
from robustness_tests.harness.measured import ABOUT
from robustness_tests.harness.run import RUN, is_worker

VIOLATED, UNJUDGED = ("failed",), ("error", "crashed")
BAD = (*VIOLATED, *UNJUDGED)
"""Outcomes that make a run fail. An error or a crash says nothing about the property."""

RECORDS = pytest.StashKey["Records"]()


@dataclass(frozen=True)
class Record:
    """One test.

    Attributes:
        test: its node id.
        outcome: passed, failed (the property does not hold), xfailed (one image violates a property that has to hold
            mostly), skipped, error (anything else was raised: nothing is known about the property) or crashed (its
            worker died).
        message: why it did not pass, in one line.
        seconds: how long it took.
        about: which property, model, reference, norm, epsilon and image, as far as they apply; `concern` and `feeds`
            are those of the mark `about`.
        values: what the test measured, as given to the fixture `measured`; plain values.
    """

    test: str
    outcome: str
    message: str = ""
    seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def property_name(self) -> str:
        """The name of the test function."""
        return str(self.about.get("property", self.test.rpartition("::")[2].partition("[")[0]))


@dataclass
class Records:
    """The records so far, and how many tests there have to be.

    Attributes:
        collected: number of tests that were selected.
        deselected: number of tests that the command line left out, by `-k` for example.
        by_test: records by node id.
    """

    collected: int = 0
    deselected: int = 0
    by_test: dict[str, Record] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Tests that were selected and never reported."""
        return max(0, self.collected - len(self.by_test))

    def ours(self) -> list[Record]:
        """Records of tests about models: in the order in which they finished."""
        return [record for record in self.by_test.values() if record.about or record.outcome == "crashed"]


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no record."""
    if not is_worker(config):
        config.stash[RECORDS] = Records()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add what each test is about to its user properties, and so to its reports."""
    run = config.stash[RUN]
    for item in items:
        item.user_properties.extend(subject_of(item, run).items())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the selected tests of a run without workers."""
    if not is_worker(session.config):
        session.config.stash[RECORDS].collected = len(session.items)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what was left out; a worker tells the controller at its end."""
    config = items[0].config
    if is_worker(config):
        output = config.workeroutput  # type: ignore[attr-defined]  # set by pytest-xdist
        output["robustness_deselected"] = output.get("robustness_deselected", 0) + len(items)
    else:
        config.stash[RECORDS].deselected += len(items)


class DistributedCollection:
    """Counts the tests of a distributed run; the controller itself collects none."""

    def __init__(self, records: Records) -> None:
        self.records = records

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Every worker collects the same tests."""
        self.records.collected = len(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the largest count: all workers deselect the same tests, but a crashed one sends none."""
        left_out = getattr(node, "workeroutput", {}).get("robustness_deselected", 0)
        self.records.deselected = max(self.records.deselected, left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Begin to listen to workers."""
    config.pluginmanager.register(DistributedCollection(config.stash[RECORDS]))


VIOLATIONS = (AssertionError, pytest.fail.Exception)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell a property that does not hold from one that could not be tested: a model may raise, or be too slow."""
    report = yield
    report.robustness_error = call.excinfo is not None and not _is_violation(call.excinfo.value)  # type: ignore[attr-defined]
    return report


def _is_violation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # hypothesis: several counterexamples
        return all(_is_violation(one) for one in error.exceptions)
    return isinstance(error, VIOLATIONS)


class Gathering:
    """Turns reports into records."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._phases: dict[str, list[pytest.TestReport]] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Record a test before other plugins see its report, and let go of the report after that."""
        self._record(report)
        result = yield
        self._let_go(report)
        return result

    def _let_go(self, report: pytest.TestReport) -> None:
        """Empty the reports of an image that went well: the terminal and pytest-html keep them all to the end."""
        self._phases.setdefault(report.nodeid, []).append(report)
        if report.when != "teardown":
            return
        phases = self._phases.pop(report.nodeid)
        record = self.records.by_test.get(report.nodeid)
        if record is not None and "image" in record.about and not any(phase.failed for phase in phases):
            for phase in phases:
                phase.user_properties, phase.keywords = [], {}

    def _record(self, report: pytest.TestReport) -> None:
        """Record the call phase, or the first phase that did not pass."""
        properties = dict(report.user_properties)
        if "property" in properties:
            # Lists and tables are for results.json. JUnit XML and the rows of the report get what fits into a line.
            plain_ones = [pair for pair in report.user_properties if not isinstance(pair[1], list | dict)]
            report.user_properties = plain_ones
        earlier = self.records.by_test.get(report.nodeid)
        outcome = _outcome(report)
        if (outcome == "passed" and report.when != "call") or (earlier and earlier.outcome in ("failed", "error")):
            return
        self.records.by_test[report.nodeid] = Record(
            test=report.nodeid,
            outcome=outcome,
            message="" if outcome == "passed" else _message(report, outcome),
            seconds=report.duration,
            about={name: properties.pop(name) for name in ABOUT if name in properties},
            values=properties,
        )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to listen to reports."""
    if not is_worker(session.config):
        session.config.pluginmanager.register(Gathering(session.config.stash[RECORDS]))


def _outcome(report: pytest.TestReport) -> str:
    if report.outcome == "skipped":
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    if report.outcome == "failed":
        if report.when == "call":
            return "error" if getattr(report, "robustness_error", False) else "failed"
        return "crashed" if "crashed while running" in report.longreprtext else "error"
    return "passed"


def _message(report: pytest.TestReport, outcome: str) -> str:
    if outcome == "xfailed":
        return str(report.wasxfail).removeprefix("reason: ")
    if outcome == "skipped" and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else report.longreprtext.strip().rpartition("\n")[2]
    first_line = re.sub(r"^(\w+\.)+(?=\w+: )", "", str(text).split("\n", 1)[0])  # the exception without its module
    return first_line.removeprefix("AssertionError: ").removeprefix("Failed: ")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """Fail a run if not all of its tests were reported. Runs before other hooks read the exit status."""
    if not is_worker(session.config):
        records = session.config.stash[RECORDS]
        if exitstatus == pytest.ExitCode.OK and records.missing and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return (yield)
