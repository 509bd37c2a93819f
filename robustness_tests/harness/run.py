"""What is run: the options of the command line as one frozen value. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from robustness_tests.harness.thresholds import Thresholds

BATCH_SIZES = {"cpu": 20, "cuda": 100}
"""Images measured together, by kind of device. Small enough on a CPU that a run on a few images does not measure many
more; large enough on a GPU to use it."""

CERTIFIED_IMAGES = 20
"""Images that are certified by default; all of them at thorough effort, or where a certificate is required."""

CERTIFIED_NORMS = ("linf", "l2")
"""Those of `metrics.certified_distance`, which is not imported here: that would import torch."""


@dataclass(frozen=True)
class Run:
    """The options of a run, checked; the same in the controller and in every worker.

    Attributes:
        model: name of the candidate, the model under release.
        against: name of the reference, the model that it has to beat; the same name means no comparison.
        dataset: name of the dataset.
        images: number of test images, the first ones of the dataset.
        effort: the budget for each image: "quick", for a look and not for a release, "default" or "thorough".
        norms: norms of the perturbations.
        certify: "auto", "off" or "require": whether lower bounds are proved, and whether it is a failure if that cannot
            be done.
        batch_size: images measured together; None takes `BATCH_SIZES`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: of everything that is random.
        thresholds: what counts as good enough.
        results: folder of the report, results.json and the stored measurements.
        fresh: whether measurements that were stored before this run are left alone.
        started: when the run began, in seconds since the epoch; the same in all workers.
    """

    model: str
    against: str
    dataset: str
    images: int
    effort: str
    norms: tuple[str, ...]
    certify: str
    batch_size: int | None
    device: str
    seed: int
    thresholds: Thresholds
    results: Path
    fresh: bool
    started: float

    @property
    def models(self) -> tuple[str, ...]:
        """Candidate and reference, once if they are the same."""
        return tuple(dict.fromkeys((self.model, self.against)))

    @property
    def quick(self) -> bool:
        """Whether the budget is one that no release should depend on."""
        return self.effort == "quick"

    @property
    def certified_images(self) -> int:
        """How many images, from the first on, are certified: bounds cost more than everything else together."""
        if self.certify == "off":
            return 0
        every = self.certify == "require" or self.effort == "thorough"
        return self.images if every else min(self.images, CERTIFIED_IMAGES)

    @property
    def certified_norms(self) -> tuple[str, ...]:
        """The norms of the run that there are bounds for."""
        return tuple(norm for norm in self.norms if norm in CERTIFIED_NORMS)

    @property
    def measurements(self) -> Path:
        """The folder of the stored measurements."""
        return self.results / "measurements"


RUN = pytest.StashKey[Run]()


def worker_input(config: pytest.Config) -> dict[str, Any]:
    """What the controller of pytest-xdist has told this worker."""
    return config.workerinput  # type: ignore[attr-defined]  # set by pytest-xdist


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")
