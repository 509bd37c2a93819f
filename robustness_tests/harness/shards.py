"""`--shard 3/16`: measure a part of the batches that the selected tests need, store them, and assert nothing.

Shards may run at the same time, on several machines. Each leaves a note in the store. The same command without
`--shard` then reads what all of them have measured. Imports no torch.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from robustness_tests.harness.batches import FILE, PASSES, STORED, BatchId, BatchItem, batches_of, share_of
from robustness_tests.harness.metric import Metric
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import IN_USE, RUN, Run, is_worker

NOTES = "shards"
"""The folder of the notes, in the store."""

MOST_SHARDS = 10**6
"""As the option has at most six digits."""


@dataclass(frozen=True)
class ShardNote:
    """What a shard has done.

    Attributes:
        plan: digest of what is measured; shards of one run have the same.
        shard: its number, from 1 on.
        shards: how many there are.
        files: the batches that are in the store, as paths below it.
        stored: how many of these were stored before.
        failed: the batches that could not be measured.
        passes: forward and backward passes spent now.
        seconds: how long it took.
        machine: name of the machine.
    """

    plan: str
    shard: int
    shards: int
    files: Sequence[str]
    stored: int
    failed: Sequence[str]
    passes: int
    seconds: float
    machine: str

    @property
    def batches(self) -> int:
        """How many batches it had to measure."""
        return len(self.files) + len(self.failed)

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.plan}-{self.shard:05d}-of-{self.shards:05d}.json"


PLAN = (
    *("model", "against", "deployed", "dataset", "images", "sampling", "sample", "image_digests", "batch_sizes"),
    *("norms", "effort", "precision", "certify", "clever_radius", "seed", "digests"),
)
"""The fields of a run that decide what is measured, beside thresholds, which state epsilons."""


def plan_of(run: Run) -> str:
    """A digest of what a run measures."""
    thresholds = {name: value for name, value in vars(run.thresholds).items() if name not in ("files", "others")}
    measured = [getattr(run, name) for name in PLAN]
    try:
        torch = version("torch")
    except PackageNotFoundError:  # built from source
        torch = ""
    text = json.dumps([*measured, thresholds, torch], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_note(store: Path, note: ShardNote) -> None:
    """Write a note as a whole or not at all."""
    path = store / NOTES / note.file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{platform.node()}-{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_notes(store: Path) -> list[ShardNote]:
    """The notes of a store; files that are no notes are left out."""
    found = []
    for path in sorted((store / NOTES).glob("*.json")):
        try:
            note = ShardNote(**json.loads(path.read_text(encoding="utf-8")))
            found += [note] if _is_right(note) and note.file == path.name else []
        except (OSError, ValueError, TypeError):
            continue
    return found


def _is_right(note: ShardNote) -> bool:
    """Whether the values are as a shard writes them: somebody may have changed the file."""
    counts = (note.shard, note.shards, note.stored, note.passes)
    names = (note.plan, note.machine, *note.files, *note.failed)
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and 1 <= note.shard <= note.shards < MOST_SHARDS
        and isinstance(note.files, list)
        and isinstance(note.failed, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(note.seconds, int | float)
    )


def lost_files(store: Path, note: ShardNote) -> list[str]:
    """The batches of a note that are not in the store."""
    return [name for name in note.files if not (store / name).is_file()]


def missing_shards(notes: Iterable[ShardNote]) -> dict[tuple[str, int], list[int]]:
    """For each plan and number of shards among the notes, the shards that left none."""
    seen: dict[tuple[str, int], set[int]] = {}
    for note in notes:
        seen.setdefault((note.plan, note.shards), set()).add(note.shard)
    return {key: [shard for shard in range(1, key[1] + 1) if shard not in done] for key, done in seen.items()}


def in_words(numbers: Sequence[int]) -> str:
    """Numbers of shards.

    Example:
        >>> in_words([3]), in_words([3, 5, 8])
        ('shard 3', 'shards 3, 5, 8')
    """
    return f"shard{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """Which shard this is; or else which shards are in the store."""
    run = config.stash[RUN]
    if not config.stash[IN_USE]:
        return []
    if run.shard:
        return [f"robustness: shard {run.shard}: batches are measured and stored, and nothing is asserted"]
    notes = read_notes(run.store)
    if not notes:
        return []
    plan = plan_of(run)
    notes = [note for note in notes if note.plan == plan and not lost_files(run.store, note)]
    missing = {count: lost for (_, count), lost in missing_shards(notes).items()}
    if not missing:
        return []
    count, lost = min(missing.items(), key=lambda one: (len(one[1]), one[0]))
    if not lost:
        return [f"robustness: in the store: {in_words(range(1, count + 1))} of {count}"]
    return [f"robustness: not in the store: {in_words(lost)} of {count}; what they lack is measured now"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Put the batches of a shard in the place of the selected tests."""
    result = yield
    run = config.stash[RUN]
    if run.shard:
        batches = batches_of(items, run)
        mine = [_item(session, run, one, batches[one]) for one in share_of(batches, run, run.shard)]
        # Without any item, pytest would say that nothing was selected.
        nothing = [NothingToMeasure.from_parent(session, name="nothing", nodeid="shard::nothing")] if batches else []
        items[:] = mine or nothing
    return result


def _item(session: pytest.Session, run: Run, batch: BatchId, metric: Metric[Any]) -> pytest.Item:
    first = run.indices(run.test_images)[batch.first]
    name = f"{batch.metric}[{batch.model}-{run.dataset}-{batch.norm}-{first:05d}]"
    item: pytest.Item = BatchItem.from_parent(session, name=name, nodeid=f"shard::{name}", batch=batch, metric=metric)
    return item


class NothingToMeasure(pytest.Item):
    """Stands for a shard without a batch: there are more shards than batches."""

    def runtest(self) -> None:
        """Do nothing."""


class Tally:
    """Counts the batches of a shard in the controller, and leaves the note.

    Attributes:
        config: that of pytest.
        note: what was counted; None until the shard has ended with every batch measured or failed.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.note: ShardNote | None = None
        self._measured: dict[str, tuple[bool, int]] = {}
        self._failed: set[str] = set()
        self._ended: set[str] = set()
        self._not_written = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what was measured, and what could not be."""
        values = dict(report.user_properties)
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.when == "call" and FILE in values:
            self._measured[str(values[FILE])] = (bool(values[STORED]), int(str(values[PASSES])))
        if report.failed or report.when == "call":
            self._ended.add(report.nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Leave the note, if the shard has come to its end."""
        run, count = self.config.stash[RUN], len(self._ended)
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if ended and count == self.config.stash[RECORDS].collected and run.shard:
            self.note = ShardNote(
                plan=plan_of(run),
                shard=run.shard.number,
                shards=run.shard.count,
                files=sorted(self._measured),
                stored=sum(stored for stored, _ in self._measured.values()),
                failed=sorted(self._failed),
                passes=sum(passes for stored, passes in self._measured.values() if not stored),
                seconds=round(time.time() - run.started, 1),
                machine=platform.node(),
            )
            try:
                write_note(run.store, self.note)
            except OSError as error:
                self._not_written = f"no note of the shard is in the store: {error.strerror}. The exit status is 3."
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was measured, and what comes next."""
        run, note = self.config.stash[RUN], self.note
        terminalreporter.write_sep("=", "robustness")
        if note is None:
            terminalreporter.write_line(f"shard {run.shard} is incomplete: give the same command again", red=True)
            return
        failed = f", {len(note.failed)} failed" if note.failed else ""
        terminalreporter.write_line(
            f"shard {run.shard}: {note.batches} batches ({note.stored} were stored before{failed}), "
            f"{note.passes:,} passes, in {run.store}"
        )
        if self._not_written:
            terminalreporter.write_line(self._not_written, red=True)
        terminalreporter.write_line(
            "Nothing was asserted. The same command without --shard asserts, when all shards are in one store."
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to count."""
    config = session.config
    if config.stash[RUN].shard and not is_worker(config) and not config.option.collectonly:
        config.pluginmanager.register(Tally(config), "robustness-shard")
