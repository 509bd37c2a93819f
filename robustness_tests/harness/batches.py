"""The batches that tests need, their division into shards, and items that measure them. Imports no torch."""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from robustness_tests.harness.collection import images_of, norms_of, subject_of
from robustness_tests.harness.metric import Metric, metrics_among, with_needs
from robustness_tests.harness.run import RUN, Run, Shard


class BatchId(NamedTuple):
    """A batch of a run: consecutive images that a metric measures together.

    Attributes:
        metric: name of the metric.
        model: name of the model.
        norm: norm of the perturbation.
        first: position of the first image in the run.
    """

    metric: str
    model: str
    norm: str
    first: int


def batches_of(items: Iterable[pytest.Item], run: Run) -> dict[BatchId, Metric[Any]]:
    """The batches that tests need, with their metrics."""
    needed: dict[BatchId, Metric[Any]] = {}
    for item in items:
        if isinstance(item, BatchItem):
            needed[item.batch] = item.metric
            continue
        if item.get_closest_marker("skip"):  # there is nothing to run for, or the user says so
            continue
        fixtures = getattr(item, "fixturenames", ())
        about = subject_of(item, run)
        models = {str(about[role]) for role in ("model", "reference") if role in about} or set(run.models)
        models &= run.batch_sizes.keys()  # a test of a user's may have models of its own
        norms = [str(about["norm"])] if "norm" in about else norms_of(run, fixtures)
        image = about.get("image")
        for metric in with_needs(metrics_among(fixtures)):
            for model in models:
                batch = run.batch_sizes[model]
                firsts = list(range(0, images_of(run, fixtures), batch))
                if isinstance(image, int):  # one of a test of a user's need not be in the run
                    known = image in run.indices(run.images)
                    firsts = [run.position(image) // batch * batch] if known else []
                needed |= {BatchId(metric.name, model, norm, first): metric for norm in norms for first in firsts}
    return needed


class BatchItem(pytest.Item):
    """Measures a batch, in the place of the tests that need it, and asserts nothing.

    Attributes:
        batch: which one.
        metric: its metric.
    """

    def __init__(self, *, batch: BatchId, metric: Metric[Any], **other: Any) -> None:
        super().__init__(**other)
        self.batch = batch
        self.metric = metric

    def runtest(self) -> None:
        """Measure the batch, unless it is stored."""
        from robustness_tests.harness.measurements import measurements_of  # noqa: PLC0415  # torch

        measurements = measurements_of(self.config)
        columns, stored = measurements.columns(self.metric, *self.batch[1:])
        file = measurements.file(self.metric, *self.batch[1:])
        if not (self.config.stash[RUN].store / file).is_file():
            raise RuntimeError(
                "got a store that cannot be written to, expected one that keeps the batch for later runs"
            )
        passes = sum(int(columns[name].sum()) for name in ("forward", "backward") if name in columns)
        self.user_properties += [(FILE, file.as_posix()), (STORED, stored), (PASSES, passes)]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """Show what happened below this item, and not how pytest came to it."""
        excinfo.traceback = excinfo.traceback.cut(path=__file__)
        return super().repr_failure(excinfo, style="short")

    def reportinfo(self) -> tuple[Path, None, str]:
        """What pytest calls it."""
        return self.metric.source(), None, self.name


FILE, STORED, PASSES = "robustness_file", "robustness_stored", "robustness_passes"
"""User properties of an item: where its batch is, whether it was stored before, and what it has cost."""


def share_of(batches: Mapping[BatchId, Metric[Any]], run: Run, shard: Shard) -> list[BatchId]:
    """The batches of a shard, the same for everybody who asks.

    Batches that need each other are in the same shard. The most expensive ones are dealt out first, each to the shard
    that has the least so far (Graham 1969, LPT: at most 4/3 of the best possible longest shard).

    Args:
        batches: all batches of the run.
        run: the run.
        shard: which one of how many.
    """
    units = [(sum(_cost(one, batches[one], run) for one in unit), unit) for unit in kept_together(batches)]
    # Of equal cost, those of a model are dealt out before those of the next, which may be larger or smaller.
    units.sort(key=lambda unit: (-unit[0], [(one.model, one.norm, one.first, one.metric) for one in unit[1]]))
    loads = [(0, number) for number in range(1, shard.count + 1)]
    mine: list[BatchId] = []
    for cost, unit in units:
        load, number = heapq.heappop(loads)
        heapq.heappush(loads, (load + cost, number))
        if number == shard.number:
            mine += unit
    # As in the gate: a worker has one batch of images after the other.
    return sorted(mine, key=lambda one: (one.model, one.first, one.norm, one.metric))


def kept_together(batches: Mapping[BatchId, Metric[Any]]) -> list[Sequence[BatchId]]:
    """Groups of batches of which none needs a batch of another group."""
    of_images: dict[tuple[str, str, int], dict[str, Metric[Any]]] = {}
    for one, metric in batches.items():
        of_images.setdefault((one.model, one.norm, one.first), {})[one.metric] = metric
    return [
        sorted(BatchId(name, *images) for name in group & metrics.keys())
        for images, metrics in of_images.items()
        for group in _linked(metrics.values())
    ]


def _linked(metrics: Collection[Metric[Any]]) -> list[set[str]]:
    groups: list[set[str]] = []
    for metric in metrics:
        linked = {one.name for one in with_needs([metric])}
        apart = [group for group in groups if not group & linked]
        groups = [*apart, linked.union(*(group for group in groups if group & linked))]
    return groups


def _cost(batch: BatchId, metric: Metric[Any], run: Run) -> int:
    return metric.passes * min(run.batch_sizes[batch.model], run.images - batch.first)
