"""The description of a metric, and the fixture through which tests use it. Imports no torch.

Each metric of the suite is a file in `fixtures`. Define your own in the same way in a conftest.py or a plugin, see
`docs/extending.md`.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import pytest

from robustness_tests.harness.seeds import seed_of

if TYPE_CHECKING:
    # Importing torch takes seconds; the controller of a distributed run never needs it.
    from torch import Tensor, nn

    from metrics.norms import Norm
    from robustness_tests.harness.measurements import Measurements
    from robustness_tests.harness.run import Run
    from robustness_tests.harness.subject import Subject

Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)
Columns = Mapping[str, Any]
"""Results by name: tensors or texts, one for each image of a batch; None is left out."""


@dataclass(frozen=True)
class Batch:
    """The images that a metric measures together: consecutive images of a dataset, for one model and norm.

    Attributes:
        network: the model in evaluation mode, with frozen parameters; its passes are counted for the progress bar.
        images: shape (N, C, H, W), in [0, 1], on the device of the network.
        labels: int64, shape (N,), on the same device.
        norm: "linf", "l2" or "l1".
        indices: dataset indices of the images.
        seed: seed of the run.
        parameters: the values of `Metric.all_parameters`.
        needed: the columns of each metric in `Metric.needs`, by its name, on the same device.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    norm: Norm
    indices: Sequence[int]
    seed: int
    parameters: Mapping[str, Any]
    needed: Mapping[str, Mapping[str, Tensor]]

    def seeds(self, stream: str) -> list[int]:
        """A seed for each image in the random stream of this name. It depends on neither batch nor model."""
        return [seed_of(self.seed, stream, index) for index in self.indices]


@dataclass(frozen=True)
class Metric(Generic[Row]):
    """The description of a metric.

    The results of a batch may depend only on the argument of `batch`. The key in the store contains this argument, and
    the source of `metrics`, of the file that defines `batch`, and of `imports`.

    Attributes:
        name: name of its fixture and of its folder in the store.
        doc: docstring of its fixture.
        row: the frozen dataclass that a test gets for one image. Its fields are columns of `batch`, parameters, or:
            `image`, the dataset index; `stored`, whether it is from an earlier run; `stored_at`, "FILE#ROW".
        batch: function that measures one batch. It imports torch in its body, since the controller loads no torch.
        parameters: function of run, model and norm that returns everything else that the results depend on: JSON values
            that are not in `Batch`.
        needs: metrics that it is computed from, for the same images.
        norms: the norms of a run that it supports.
        images: how many images of a run it measures, from the first on.
        nothing: reason for skipping a test if the run has no norm or no image for the metric.
        threshold_table: the table in thresholds.toml with its least shares by dataset, norm and epsilon, if any.
        usual_epsilons: the epsilons for a norm if no threshold file states any.
        counted: whether passes of the network are counted. If not, `batch` gets the network itself, without a wrapper,
            and can take it apart.
        imports: modules other than `metrics` that `batch` imports and the results depend on.
        passes: about how many pairs of a forward and a backward pass an image costs at the default effort, in time;
            shards are balanced with it, and nothing else depends on it.
    """

    name: str
    doc: str
    row: type[Row]
    batch: Callable[[Batch], Columns]
    parameters: Callable[[Run, str, str], Mapping[str, Any]] = lambda _run, _model, _norm: {}
    needs: tuple[Metric[Any], ...] = ()
    norms: Callable[[Run], tuple[str, ...]] = lambda run: run.norms
    images: Callable[[Run], int] = lambda run: run.images
    nothing: str = "this run has no image or norm for this metric"
    threshold_table: str | None = None
    usual_epsilons: Callable[[Run, str], tuple[str, ...]] = lambda _run, _norm: ()
    counted: bool = True
    imports: tuple[str, ...] = ()
    passes: int = 100

    def all_parameters(self, run: Run, model: str, norm: str) -> dict[str, Any]:
        """Its parameters, and those of all that it needs."""
        needs = {one.name: one.all_parameters(run, model, norm) for one in self.needs}
        return {**self.parameters(run, model, norm), **({"needs": needs} if needs else {})}

    def epsilons(self, run: Run, norm: str) -> tuple[str, ...]:
        """Its epsilons for a norm: those that a threshold file states, or else the usual ones."""
        stated = run.thresholds.epsilons(run.dataset, norm, self.threshold_table) if self.threshold_table else ()
        return tuple(stated) or self.usual_epsilons(run, norm)

    def source(self) -> Path:
        """The file that defines `batch`."""
        return Path(inspect.getsourcefile(self.batch) or "")

    def sources(self) -> tuple[Path, ...]:
        """The files, beside those of `metrics`, that its numbers depend on.

        Raises:
            ValueError: for a module of `imports` that is not there.
        """
        found = {name: importlib.util.find_spec(name) for name in self.imports}
        for name, spec in found.items():
            if spec is None or spec.origin is None:
                raise ValueError(
                    f"got imports={name!r} of the metric {self.name!r}, expected a module that can be imported"
                )
        return (self.source(), *(Path(str(spec.origin)) for spec in found.values() if spec))


class MeasuresImage(Protocol[Row_co]):
    """What the fixture of a metric is: a function of a model, a dataset index and a norm."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> Row_co:
        """What was measured of the image with this dataset index."""


METRICS: dict[str, Metric[Any]] = {}
"""Every metric that has a fixture, by name."""


def metric_fixture(metric: Metric[Row]) -> Callable[..., MeasuresImage[Row]]:
    """Make the fixture of a metric, which a conftest.py or a plugin assigns to the name of the metric.

    Raises:
        ValueError: if there is a metric of this name from another file.
    """
    known = METRICS.setdefault(metric.name, metric)
    if known.source() != metric.source():
        raise ValueError(f"got a second metric {metric.name!r}, in {metric.source()}, expected another name")
    METRICS[metric.name] = metric

    def measure(measurements: Measurements) -> MeasuresImage[Row]:
        return lambda model, image, *, norm: measurements.row(metric, model.name, image, norm)

    measure.__doc__ = metric.doc
    fixture: Callable[..., MeasuresImage[Row]] = pytest.fixture(scope="session", name=metric.name)(measure)
    return fixture


def metrics_among(fixtures: Iterable[str]) -> list[Metric[Any]]:
    """The metrics whose fixtures these are."""
    return [METRICS[name] for name in fixtures if name in METRICS]


def with_needs(metrics: Iterable[Metric[Any]]) -> list[Metric[Any]]:
    """The metrics, and all that they are computed from, each once."""
    found: dict[str, Metric[Any]] = {}
    for metric in metrics:
        found |= {one.name: one for one in (*with_needs(metric.needs), metric)}
    return list(found.values())


def threshold_tables() -> tuple[str, ...]:
    """The tables of shares that thresholds.toml may have."""
    return tuple(dict.fromkeys(one.threshold_table for one in METRICS.values() if one.threshold_table))
