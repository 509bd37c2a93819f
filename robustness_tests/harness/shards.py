"""`--shard 3/16`: measure a part of the batches that the selected tests need, store them, and assert nothing.

Shards may run at the same time, on several machines. Each leaves a note in the store. The same command without
`--shard` then reads what all of them have measured. Imports no torch.
"""

import hashlib
import json
import platform
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from robustness_tests.harness.batches import PASSES, STORED, BatchId, BatchItem, batches_of, share_of
from robustness_tests.harness.metric import Metric
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import IN_USE, RUN, Run, is_worker

NOTES = "shards"
"""The folder of the notes, in the store."""


@dataclass(frozen=True)
class ShardNote:
    """What a shard has done.

    Attributes:
        plan: digest of what is measured; shards of one run have the same.
        shard: its number, from 1 on.
        shards: how many there are.
        batches: number of batches that it had to measure.
        stored: how many of these were stored before.
        failed: the batches that could not be measured.
        passes: forward and backward passes spent now.
        seconds: how long it took.
        machine: name of the machine.
    """

    plan: str
    shard: int
    shards: int
    batches: int
    stored: int
    failed: Sequence[str]
    passes: int
    seconds: float
    machine: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.plan}-{self.shard:05d}-of-{self.shards:05d}.json"


PLAN = (
    *("model", "against", "deployed", "dataset", "images", "sampling", "sample", "image_digests", "batch_sizes"),
    *("norms", "effort", "precision", "certify", "clever_radius", "seed", "digests"),
)
"""The fields of a run that decide what is measured."""


def plan_of(run: Run) -> str:
    """A digest of what a run measures."""
    text = json.dumps([getattr(run, name) for name in PLAN], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_note(store: Path, note: ShardNote) -> None:
    """Write a note as a whole or not at all."""
    path = store / NOTES / note.file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{platform.node()}.partial")
    partial.write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_notes(store: Path) -> list[ShardNote]:
    """The notes of a store; files that are no notes are left out."""
    found = []
    for path in sorted((store / NOTES).glob("*.json")):
        try:
            note = ShardNote(**json.loads(path.read_text(encoding="utf-8")))
            found += [note] if note.file == path.name else []
        except (OSError, ValueError, TypeError):
            continue
    return found


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
    missing = {count: lost for (plan, count), lost in missing_shards(notes).items() if plan == plan_of(run)}
    if not missing:
        return ["robustness: the shards in the store are of another run"] if notes else []
    count, lost = min(missing.items(), key=lambda one: (len(one[1]), one[0]))
    if not lost:
        return [f"robustness: all {count} shards are in the store"]
    return [f"robustness: {in_words(lost)} of {count} missing in the store: what they lack is measured now"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Put the batches of a shard in the place of the selected tests."""
    result = yield
    run = config.stash[RUN]
    if run.shard:
        batches = batches_of(items, run)
        items[:] = [_item(session, run, one, batches[one]) for one in share_of(batches, run, run.shard)]
    return result


def _item(session: pytest.Session, run: Run, batch: BatchId, metric: Metric[Any]) -> pytest.Item:
    first = run.indices(run.test_images)[batch.first]
    name = f"{batch.metric}[{batch.model}-{run.dataset}-{batch.norm}-{first:05d}]"
    item: pytest.Item = BatchItem.from_parent(session, name=name, nodeid=f"shard::{name}", batch=batch, metric=metric)
    return item


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
        self._failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what was measured, and what could not be."""
        values = dict(report.user_properties)
        if report.failed:
            self._failed[report.nodeid] = None
        elif report.when == "call" and PASSES in values:
            self._measured[report.nodeid] = (bool(values[STORED]), int(str(values[PASSES])))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Leave the note, if the shard has come to its end. A shard without any batch is no error."""
        run, count = self.config.stash[RUN], len(self._measured) + len(self._failed)
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if ended and count == self.config.stash[RECORDS].collected and run.shard:
            self.note = ShardNote(
                plan=plan_of(run),
                shard=run.shard.number,
                shards=run.shard.count,
                batches=count,
                stored=sum(stored for stored, _ in self._measured.values()),
                failed=sorted(self._failed),
                passes=sum(passes for stored, passes in self._measured.values() if not stored),
                seconds=round(time.time() - run.started, 1),
                machine=platform.node(),
            )
            try:
                write_note(run.store, self.note)
            except OSError as error:
                warnings.warn(f"no note of the shard is left in the store: {error.strerror}", stacklevel=1)
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
        terminalreporter.write_line(
            "Nothing was asserted. The same command without --shard asserts, when all shards are in one store."
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to count."""
    if session.config.stash[RUN].shard and not is_worker(session.config):
        session.config.pluginmanager.register(Tally(session.config), "robustness-shard")
