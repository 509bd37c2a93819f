"""What a test gets when it asks for a number: the subject, and the measurement of one image."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metrics
from metrics import CleverScores
from robustness_tests.harness.collection import PROVING
from robustness_tests.harness.image_results import (
    AnchoredScoreOfImage,
    CertificateOfImage,
    DistanceOfImage,
    ExactDistanceOfImage,
    NoiseOfImage,
    ScoreOfImage,
    of_row,
    of_texts,
)
from robustness_tests.harness.run import TRACED, Run
from robustness_tests.harness.store import Key, Store
from robustness_tests.harness.traces import traced
from robustness_tests.subjects.catalog import MODELS, NORMS, closest
from robustness_tests.subjects.datasets import Images, common_corruptions, load_dataset
from robustness_tests.subjects.models import check_bundled, load_model, model_digest
from robustness_tests.subjects.reproducible import device_kind, reproducible, resolve_device
from robustness_tests.subjects.sources import Source

SAMPLES_AT_ONCE = 5
"""CLEVER has many samples of an image, an attack one point: so many more rows make up a pass of the same size."""

NEEDS = {
    "anchored_clever": ("adversarial_distance", "clever"),
    "exact_distance": ("adversarial_distance", "certified_distance"),
}
"""Metrics that are computed from the results of others, for the same images."""

CLEVER_BUDGETS = {
    "quick": {"blocks": 40, "block_size": 12},
    "default": {"blocks": 40, "block_size": 24},
    "thorough": {"blocks": 56, "block_size": 64},
}

CERTIFIED_BUDGETS = {
    "quick": {"tolerance": 0.1, "budget": 2e10},
    "default": {"tolerance": 0.02, "budget": 5e10},
    "thorough": {"tolerance": 0.01, "budget": 1e12},
}

NOISE_SAMPLES = {"quick": 5, "default": 10, "thorough": 50}

LAWS = ("ball", "sphere")

EXACT_SECONDS = {"quick": 5.0, "default": 20.0, "thorough": 120.0}

EXACT_PATIENCE = 3
"""Images in a row: a network that is out of reach would cost the limit for each of twenty."""


@dataclass(frozen=True)
class Subject:
    """A model under test, with the images that it is tested on.

    Attributes:
        name: as on the command line.
        network: in evaluation mode, parameters frozen, on `device`.
        dataset: name of the dataset.
        images: the first images of its test split, as many as the run needs, on the CPU.
        device: where the network is.
        digest: of weights and code.
    """

    name: str
    network: nn.Module
    dataset: str
    images: Images
    device: torch.device
    digest: str

    def __repr__(self) -> str:
        return f"Subject({self.name!r} on {self.dataset!r}, {self.device})"

    def logits(self, images: Tensor) -> Tensor:
        """The logits of images, shape (N, K), on the CPU, without a graph."""
        with torch.no_grad(), reproducible():
            # A copy: a network may work in place.
            return self.network(images.to(self.device, copy=True)).cpu()

    def right(self, count: int) -> list[bool]:
        """Whether each of the first `count` images is classified correctly."""
        labels = self.images.labels[:count]
        logits = torch.cat([self.logits(batch) for batch in self.images.images[:count].split(100)])
        found: list[bool] = (logits.argmax(dim=1) == labels).tolist()
        return found

    def prediction(self, image: Tensor) -> tuple[int, float]:
        """The class of one image, shape (C, H, W), and the softmax of its logit: how sure the model is of it."""
        confidences = self.logits(image[None]).double().softmax(dim=1)
        return int(confidences.argmax()), float(confidences.max())

    def image(self, index: int) -> Tensor:
        """The image of a dataset index, shape (C, H, W)."""
        return self.images.images[index]

    def label(self, index: int) -> int:
        """The class of a dataset index."""
        return int(self.images.labels[index])


class Counted(nn.Module):
    """A network that tells how many images go through it."""

    def __init__(self, network: nn.Module, count: Callable[[int], None]) -> None:
        super().__init__()
        self.network, self.count = network, count
        # Not eval(), which an exported program does not know.
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the network."""
        self.count(len(images))
        return self.network(images)


@functools.cache
def subject(source: Source, dataset: Source, count: int, device: str, data_dir: Path) -> Subject:
    """A model and the first `count` images of its dataset, loaded once in a process."""
    images, where = _images(dataset, data_dir, count), resolve_device(device)
    with reproducible():
        network = load_model(source, data_dir, where)
        if source.kind == "bundled":
            # The others were looked at before the run.
            check_bundled(MODELS[source.name], network, images, where)
        digest = model_digest(source, network, images, where)
    return Subject(source.name, network, dataset.name, images, where, digest)


@functools.cache
def _images(dataset: Source, data_dir: Path, count: int) -> Images:
    return load_dataset(dataset, data_dir, count)


@functools.cache
def _metric_code() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(metrics.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def seed_of(seed: int, metric: str, index: int) -> int:
    """The seed of one image: the same in any batch, selection or number of workers, and for every model.

    So candidate and reference are compared on the same draws, and renaming a file changes no number.

    Example:
        >>> seed_of(0, "clever", 42)
        3567067060590659253
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{metric}/{index}".encode()).digest()[:8]) >> 1


class Measurements:
    """Numbers by model, norm and image: from memory, from the store, or measured with the whole batch.

    `on_batch` is called for each batch that has become available: what it is, and whether it was stored; `on_passes`
    with the images of each forward pass.
    """

    def __init__(
        self,
        run: Run,
        on_batch: Callable[[tuple[str, str, str, int], bool], None],
        on_passes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.run = run
        self.on_batch = on_batch
        self.on_passes = on_passes
        self.store = Store(run.measurements, run.started, fresh=run.fresh)
        self._batches: dict[tuple[str, str, str, int], tuple[dict[str, Tensor], bool]] = {}

    def subject(self, name: str) -> Subject:
        """The model of this name, on the run's dataset and device."""
        run = self.run
        # To the end of the last batch, and enough for the clean accuracy.
        longest = max(run.batch_sizes.values())
        count = min(run.test_images, max(run.accuracy_images, run.images + longest))
        found = subject(run.sources[name], run.dataset_source, count, run.device, run.data_dir)
        if found.digest != run.digests.get(name, found.digest):
            raise ValueError(
                f"got another model from {run.sources[name].text!r} than the one that was looked at before the run, "
                "expected the same: has a file changed since, or is the factory random?"
            )
        return found

    def distance(self, name: str, index: int, norm: str) -> DistanceOfImage:
        """The adversarial distance of an image."""
        row, stored = self._row("adversarial_distance", name, index, norm)
        return of_row(DistanceOfImage, row, stored, image=index, stored_at=self._stored_at(name, index, norm))

    def _stored_at(self, name: str, index: int, norm: str) -> str:
        first = self._first(name, index)
        return f"{self._key('adversarial_distance', name, norm, first).path().as_posix()}#{index - first}"

    def score(self, name: str, index: int, norm: str) -> ScoreOfImage:
        """The CLEVER score of an image."""
        row, stored = self._row("clever", name, index, norm)
        return of_row(ScoreOfImage, row, stored, image=index, radius=self._radius(norm))

    def anchored_score(self, name: str, index: int, norm: str) -> AnchoredScoreOfImage:
        """The CLEVER score of an image, anchored at the adversarial example that was found."""
        return of_row(AnchoredScoreOfImage, *self._row("anchored_clever", name, index, norm), image=index)

    def certificate(self, name: str, index: int, norm: str) -> CertificateOfImage:
        """The certified distance of an image."""
        return of_row(CertificateOfImage, *self._row("certified_distance", name, index, norm), image=index)

    def exact(self, name: str, index: int, norm: str) -> ExactDistanceOfImage:
        """The exact distance of an image."""
        return of_row(ExactDistanceOfImage, *self._row("exact_distance", name, index, norm), image=index)

    def noise(self, name: str, index: int, norm: str) -> NoiseOfImage:
        """The accuracy of a model on an image with random noise."""
        row, stored = self._row("noise_accuracy", name, index, norm)
        return of_row(NoiseOfImage, row, stored, image=index, epsilons=self.run.noise_epsilons(norm))

    def common_corruptions(self, name: str) -> dict[str, float]:
        """Accuracy of a model on the run's images under each corruption of CIFAR-10-C, the mean of five severities.

        Empty for other datasets, or where the data is not there. Not stored: one pass for each image.
        """
        run, model = self.run, self.subject(name)
        shares: dict[str, list[float]] = {}
        if run.dataset_source.kind == "cifar10":
            for corruption, images in common_corruptions(run.data_dir, run.images):
                logits = torch.cat([model.logits(part) for part in images.images.split(100)])
                right = (logits.argmax(dim=1) == images.labels).float().mean()
                shares.setdefault(corruption, []).append(float(right))
        return {corruption: sum(accuracies) / len(accuracies) for corruption, accuracies in shares.items()}

    def _radius(self, norm: str) -> float:
        return self.run.clever_radius[norm]

    def _row(self, metric: str, name: str, index: int, norm: str) -> tuple[dict[str, Tensor], bool]:
        count = len(self.subject(name).images.labels)
        if not 0 <= index < count:
            more = f"; --images={index + 1} loads it" if index < self.run.test_images else ""
            raise ValueError(
                f"got image {index}, expected 0 to {count - 1}: a dataset index of {self.run.dataset!r}{more}"
            )
        if norm not in NORMS:
            raise ValueError(f"got norm={norm!r}, {closest(norm, NORMS)}")
        first = self._first(name, index)
        columns, stored = self._columns(metric, name, norm, first)
        return {column: values[index - first] for column, values in columns.items()}, stored

    def _first(self, name: str, index: int) -> int:
        return index // self.run.batch_sizes[name] * self.run.batch_sizes[name]

    def _columns(self, metric: str, name: str, norm: str, first: int) -> tuple[dict[str, Tensor], bool]:
        batch = (metric, name, norm, first)
        if batch not in self._batches:
            self._batches[batch] = self._batch(*batch)
            self.on_batch(batch, self._batches[batch][1])
        return self._batches[batch]

    def _batch(self, metric: str, name: str, norm: str, first: int) -> tuple[dict[str, Tensor], bool]:
        # Before the store's lock is taken: one lock at a time.
        needed = {one: self._columns(one, name, norm, first)[0] for one in NEEDS.get(metric, ())}
        key = self._key(metric, name, norm, first)
        indices = range(first, key.last)
        return self.store.fetch(
            key, lambda: self._measure(metric, self.subject(name), norm, indices, key.parameters, needed)
        )

    def _key(self, metric: str, name: str, norm: str, first: int) -> Key:
        model = self.subject(name)
        last = min(first + self.run.batch_sizes[name], len(model.images.labels))
        return Key(
            metric=metric,
            metric_code=_metric_code(),
            parameters=self._parameters(metric, name, norm),
            model=name,
            model_digest=model.digest,
            dataset=model.dataset,
            dataset_digest=_digest(model.images, first, last),
            norm=norm,
            first=first,
            last=last,
            seed=self.run.seed,
            dtype=str(model.images.images.dtype),
            device=device_kind(model.device),
            torch=torch.__version__,
        )

    def _parameters(self, metric: str, name: str, norm: str) -> dict[str, Any]:
        batch_size = self.run.batch_sizes[name]
        if metric == "adversarial_distance":
            return {"effort": self.run.effort, "batch_size": batch_size, "traced": TRACED}
        if metric == "anchored_clever":
            return {"needs": {one: self._parameters(one, name, norm) for one in NEEDS[metric]}}
        if metric == "certified_distance":
            return {"batch_size": batch_size} | CERTIFIED_BUDGETS[self.run.effort]
        if metric == "exact_distance":
            return {"time_limit": EXACT_SECONDS[self.run.effort], "patience": EXACT_PATIENCE}
        if metric == "noise_accuracy":
            strengths = [float(epsilon) for epsilon in self.run.noise_epsilons(norm)]
            samples = NOISE_SAMPLES[self.run.effort]
            return {"epsilons": strengths, "samples": samples, "batch_size": batch_size * SAMPLES_AT_ONCE}
        cloud = {"batch_size": batch_size * SAMPLES_AT_ONCE, "radius": self._radius(norm)}
        return cloud | CLEVER_BUDGETS[self.run.effort]

    def _measure(
        self,
        metric: str,
        model: Subject,
        norm: str,
        indices: range,
        parameters: Mapping[str, Any],
        needed: Mapping[str, dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        rows = slice(indices.start, indices.stop)
        images = model.images.images[rows].to(model.device)
        labels = model.images.labels[rows].to(model.device)
        moved = {
            one: {name: column.to(model.device) for name, column in columns.items()} for one, columns in needed.items()
        }
        measure: Callable[..., Any] = getattr(metrics, metric)
        options = {name: value for name, value in parameters.items() if name != "traced"}
        if metric == "adversarial_distance":
            options["record_path"] = True
        if metric in ("adversarial_distance", "clever", "noise_accuracy"):
            options["seed"] = [seed_of(self.run.seed, metric, index) for index in indices]
        if metric == "anchored_clever":
            attacks, scores = moved["adversarial_distance"]["adversarial"], CleverScores(**moved["clever"])
            options = {"adversarial": attacks, "scores": scores}
        if metric == "exact_distance":
            options["adversarial"] = moved["adversarial_distance"]["adversarial"]
            options["certified"] = moved["certified_distance"]["distance"]
        # Bounds are propagated through the network itself.
        network = model.network if metric in PROVING else Counted(model.network, self.on_passes)
        with reproducible():
            if metric == "noise_accuracy":
                return _by_law(lambda law: measure(network, images, labels, norm=norm, law=law, **options))
            result = measure(network, images, labels, norm=norm, **options)
        columns = {field.name: getattr(result, field.name) for field in fields(result)}
        if metric == "adversarial_distance":
            # Beside the adversarial image, the clean one: the report shows both, and has no dataset.
            columns |= {"clean": images, **traced(columns.pop("path"), result)}
        return {
            name: of_texts(column) if isinstance(column, tuple) else column
            for name, column in columns.items()
            if column is not None
        }


def _by_law(measure: Callable[[str], Any]) -> dict[str, Tensor]:
    found = {law: measure(law) for law in LAWS}
    columns: dict[str, Tensor] = {law: result.accuracy for law, result in found.items()}
    return {**columns, "forward": torch.stack([result.forward for result in found.values()]).sum(dim=0)}


@functools.cache
def _digest(images: Images, first: int, last: int) -> str:
    return images.digest(slice(first, last))
