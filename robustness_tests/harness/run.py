"""The options of a run, and facts about its models and data, as one frozen value. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from robustness_tests.harness.baseline import Baseline
from robustness_tests.harness.looks import Looks
from robustness_tests.harness.thresholds import Thresholds
from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.leaderboard import LeaderboardEntry, leaderboard_entry
from robustness_tests.subjects.sources import Source
from robustness_tests.subjects.subject_check import CheckedSubjects

GPU_BATCH_SIZE = 100
"""Images measured together on a GPU, enough to use it. On a CPU the check of the models says how many are worth it."""

ACCURACY_IMAGES = {"quick": 100}
"""Least number of images for the clean accuracy, by effort; 1,000 for the other efforts."""

TRACED = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Numbers of queries after which an attack's best distance so far is recorded, to see whether it has converged."""

CERTIFIED_IMAGES = 20
"""Images that are certified by default; all of them at thorough effort, or where a certificate is required."""

CERTIFIED_NORMS = ("linf", "l2")
"""Those of `metrics.certified_distance`, which is not imported here: that would import torch."""


@dataclass(frozen=True)
class Shard:
    """A part of the batches of a run.

    Attributes:
        number: which part, from 1 on.
        count: how many parts there are.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for, each option checked by itself.

    Attributes:
        model: name of the candidate, the model under release.
        against: name of the reference, the model that it has to beat; the same name means no comparison.
        deployed: name of the form of the candidate that ships; empty for none.
        dataset: name of the dataset.
        sources: where the models come from, by name.
        dataset_source: where the dataset comes from.
        data_dir: folder of datasets and checkpoints that have names.
        images: number of test images.
        looks: the plan of `--images auto`; None for a fixed number of images.
        sampling: which images are taken: "first", "stratified" or "random".
        image_size: what pictures are brought to; None for what the models state, or no change. In a `Run`, what counts.
        clever_radius: radius of CLEVER's ball for each norm for which it was given.
        effort: the budget for each image: "quick" (for a first look, not for a release), "default" or "thorough".
        norms: norms of the perturbations.
        precision: the arithmetic in which attacks search: "float32", "tf32" or "bf16".
        certify: "auto", "off" or "require": whether to prove lower bounds, and whether to fail if that is not possible.
        device: "auto", "cpu", "cuda" or "cuda:N".
        shard: the part of the batches that is measured, without an assertion; None for a run that asserts.
        timeout_per_batch: seconds that the measurement of a batch may take; None for any number.
        seed: of everything that is random.
        thresholds: what counts as good enough.
        results: folder of the report and of results.json.
        store: folder of the stored measurements, which several runs may share.
        summary: file of the Markdown summary, beside results.json; None for none.
        baseline: the last release, with which the numbers of the candidate are compared; None for none.
        fresh: whether to ignore measurements that were stored before this run.
        started: when the run began, in seconds since the epoch; the same in all workers.
    """

    model: str
    against: str
    deployed: str
    dataset: str
    sources: Mapping[str, Source]
    dataset_source: Source
    data_dir: Path
    images: int
    looks: Looks | None
    sampling: str
    image_size: ImageSize | None
    clever_radius: Mapping[str, float]
    effort: str
    norms: tuple[str, ...]
    precision: str
    certify: str
    device: str
    shard: Shard | None
    timeout_per_batch: float | None
    seed: int
    thresholds: Thresholds
    results: Path
    store: Path
    summary: Path | None
    baseline: Baseline | None
    fresh: bool
    started: float


@dataclass(frozen=True, kw_only=True)
class Run(Options):
    """A run: its options, and facts about models and data. It is the same in the controller and in every worker.

    Attributes:
        test_images: number of images in the test split: `images` is at most this, and dataset indices are below it.
        sample: dataset indices of the images of the run, in order; empty if they are the first ones.
        values: number of values of an image: channels x height x width.
        clever_radius: radius of CLEVER's ball for each norm.
        batch_sizes: number of images measured together, for each model.
        digests: digests of the models that were checked before the run; the measured models must have the same ones.
        remarks: remarks for the user from the check of models and dataset.
        class_names: class names of the dataset, by number, if it has any.
        image_digests: digests of the images of this run, in order; none for bundled datasets.
    """

    test_images: int
    sample: tuple[int, ...]
    values: int
    batch_sizes: Mapping[str, int]
    digests: Mapping[str, str]
    remarks: tuple[str, ...]
    class_names: tuple[str, ...]
    image_digests: tuple[str, ...]

    @property
    def not_given(self) -> set[str]:
        """The fixtures whose tests are left out, because the options do not ask for them."""
        return {name for name in ("baseline", "deployed", "leaderboard") if not getattr(self, name)}

    @property
    def leaderboard(self) -> Mapping[str, LeaderboardEntry]:
        """What RobustBench states for the models of this run, by name, if this is the dataset that it states it for."""
        found = {name: leaderboard_entry(self.sources[name], self.dataset_source) for name in self.models}
        return {name: accuracy for name, accuracy in found.items() if accuracy}

    def indices(self, count: int) -> Sequence[int]:
        """The dataset indices of the first `count` images of the run."""
        return self.sample[:count] if self.sample else range(count)

    def position(self, image: int) -> int:
        """The position in the run of the image with this dataset index."""
        return self.sample.index(image) if self.sample else image

    @property
    def models(self) -> tuple[str, ...]:
        """Candidate and reference, once if they are the same."""
        return tuple(dict.fromkeys((self.model, self.against)))

    @property
    def quick(self) -> bool:
        """Whether the effort is "quick", which is too small for a release."""
        return self.effort == "quick"

    @property
    def accuracy_images(self) -> int:
        """How many images, from the first on, the clean accuracy is measured on: it takes one pass each."""
        return min(self.test_images, max(self.images, ACCURACY_IMAGES.get(self.effort, 1000)))

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


RUN = pytest.StashKey[Run]()
IN_USE = pytest.StashKey[bool]()
CHECKED_SUBJECTS = pytest.StashKey[CheckedSubjects]()


def worker_input(config: pytest.Config) -> dict[str, Any]:
    """What the controller of pytest-xdist has told this worker."""
    return config.workerinput  # type: ignore[attr-defined]  # set by pytest-xdist


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")
