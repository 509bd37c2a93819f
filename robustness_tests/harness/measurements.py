"""Numbers by metric, model, norm and image: from memory, from the store, or measured with the whole batch."""

import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import metrics
from robustness_tests.harness.image_rows import image_row, stored_columns
from robustness_tests.harness.metric import Batch, Metric
from robustness_tests.harness.progress import PassCounter, batch_done
from robustness_tests.harness.run import RUN, Run
from robustness_tests.harness.signals import BatchTimeoutError, at_most, to_the_end
from robustness_tests.harness.store import Key, Store
from robustness_tests.harness.subject import Counted, Subject, subject
from robustness_tests.subjects.catalog import NORMS, closest
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.outputs import OneByOne
from robustness_tests.subjects.reproducible import device_kind, reproducible

Row = TypeVar("Row")


class Measurements:
    """Results by metric, model, norm and image.

    Calls `on_batch` when a batch becomes available, with (metric, model, norm, first image) and whether it was stored.
    Calls `on_passes` with the number of images of each forward pass, and `say` where the user has to be told something.
    """

    def __init__(
        self,
        run: Run,
        on_batch: Callable[[tuple[str, str, str, int], bool], None],
        on_passes: Callable[[int], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.run = run
        self.on_batch = on_batch
        self.on_passes = on_passes
        self.say = say
        self.store = Store(run.store, run.started, fresh=run.fresh)
        self._batches: dict[tuple[str, str, str, int], tuple[dict[str, Tensor], bool]] = {}
        self._late: dict[tuple[str, str, str, int], str] = {}
        self._keys: dict[tuple[str, str, str, int], Key] = {}
        self._seen: set[int] = set()

    def subject(self, name: str) -> Subject:
        """The model of this name, on the run's dataset and device."""
        run = self.run
        # To the end of the last batch, and enough for the clean accuracy.
        longest = max(run.batch_sizes.values())
        count = min(run.test_images, max(run.accuracy_images, run.images + longest))
        found = subject(
            run.sources[name],
            run.dataset_source,
            count,
            run.device,
            run.data_dir,
            run.image_size,
            run.sampling,
            run.seed,
        )
        # The digest of a model contains its logits of these images.
        self._check_images(found.images, 0, 4)
        if found.digest != run.digests.get(name, found.digest):
            raise ValueError(
                f"got another model from {run.sources[name].text!r} than the one that was looked at before the run, "
                "expected the same: has a file changed since, or is the factory random?"
            )
        if name == run.deployed and name not in run.models:
            return replace(found, network=OneByOne(found.network))
        return found

    def row(self, metric: Metric[Row], model: str, image: int, norm: str) -> Row:
        """The results of a metric for the image with this dataset index.

        Raises:
            ValueError: for an index that is not loaded, or an unknown norm.
        """
        loaded = self.subject(model)
        try:
            position = loaded.position(image)
        except KeyError:
            count = len(loaded.images.labels)
            if self.run.sample:
                raise ValueError(f"got image {image}, expected one of the {count} that are sampled") from None
            more = f"; --images={image + 1} loads it" if image < self.run.test_images else ""
            raise ValueError(
                f"got image {image}, expected 0 to {count - 1}: a dataset index of {self.run.dataset!r}{more}"
            ) from None
        if norm not in NORMS:
            raise ValueError(f"got norm={norm!r}, {closest(norm, NORMS)}")
        first = position // self.run.batch_sizes[model] * self.run.batch_sizes[model]
        columns, stored = self.columns(metric, model, norm, first)
        key = self._key(metric, model, norm, first)
        return image_row(
            metric.row,
            {name: values[position - first] for name, values in columns.items()},
            **{
                **key.parameters,
                "image": image,
                "stored": stored,
                "stored_at": f"{key.path().as_posix()}#{position - first}",
            },
        )

    def columns(self, metric: Metric[Any], model: str, norm: str, first: int) -> tuple[dict[str, Tensor], bool]:
        """The results of a metric for the batch that starts at this position of the run, and whether it was stored."""
        batch = (metric.name, model, norm, first)
        if batch in self._late:
            # It would take as long again for each of its tests.
            raise BatchTimeoutError(self._late[batch])
        if batch not in self._batches:
            # Fetched before the store's lock is taken, so that a process holds one lock at a time.
            needed = {one.name: self.columns(one, model, norm, first)[0] for one in metric.needs}
            key = self._key(metric, model, norm, first)
            try:
                with to_the_end(self.say):
                    self._batches[batch] = self.store.fetch(key, lambda: self._measure(metric, key, needed))
            except BatchTimeoutError as error:
                self._late[batch] = str(error)
                raise
            self.on_batch(batch, self._batches[batch][1])
        return self._batches[batch]

    def file(self, metric: Metric[Any], model: str, norm: str, first: int) -> Path:
        """Where the batch is stored, below the folder of the store."""
        return self._key(metric, model, norm, first).path()

    def _key(self, metric: Metric[Any], name: str, norm: str, first: int) -> Key:
        batch = (metric.name, name, norm, first)
        if batch not in self._keys:
            self._keys[batch] = self._new_key(metric, name, norm, first)
        return self._keys[batch]

    def _new_key(self, metric: Metric[Any], name: str, norm: str, first: int) -> Key:
        model = self.subject(name)
        self._check_images(model.images, first, first + self.run.batch_sizes[name])
        last = min(first + self.run.batch_sizes[name], len(model.images.labels))
        return Key(
            metric=metric.name,
            metric_code=_code(metric.sources()),
            parameters=metric.all_parameters(self.run, name, norm),
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

    def _check_images(self, images: Images, first: int, last: int) -> None:
        """Refuse images that are not those of the check before the run.

        Raises:
            ValueError: if one is not.
        """
        for position in range(first, min(last, len(self.run.image_digests))):
            looked_at = self.run.image_digests[position]
            if position not in self._seen and not images.digest(slice(position, position + 1)).startswith(looked_at):
                raise ValueError(
                    f"got another image {images.index(position)} from {self.run.dataset_source.text!r} than the one "
                    "that was looked at before the run, expected the same: is its transform random, or has a file "
                    "changed?"
                )
            self._seen.add(position)

    def _measure(
        self, metric: Metric[Any], key: Key, needed: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        model = self.subject(key.model)
        rows = slice(key.first, key.last)
        batch = Batch(
            network=Counted(model.network, self.on_passes) if metric.counted else model.network,
            images=model.images.images[rows].to(model.device),
            labels=model.images.labels[rows].to(model.device),
            norm=key.norm,  # type: ignore[arg-type]  # one of NORMS
            indices=[model.images.index(position) for position in range(key.first, key.last)],
            seed=key.seed,
            parameters=key.parameters,
            needed={
                name: {column: values.to(model.device) for column, values in columns.items()}
                for name, columns in needed.items()
            },
        )
        name = metric.name.replace("_", " ")
        what = f"{name} of {key.model} in {key.norm}, images {batch.indices[0]} to {batch.indices[-1]},"
        with reproducible(), at_most(self.run.timeout_per_batch, what):
            return stored_columns(metric.batch(batch), len(batch.images), metric.name)


MEASUREMENTS = pytest.StashKey[Measurements]()


def measurements_of(config: pytest.Config) -> Measurements:
    """The measurements of the run of this process, which it has once."""
    if MEASUREMENTS not in config.stash:
        config.stash[MEASUREMENTS] = Measurements(
            config.stash[RUN],
            lambda batch, stored: batch_done(config, batch, stored=stored),
            PassCounter(config),
            lambda text: _say(config, text),
        )
    return config.stash[MEASUREMENTS]


def _say(config: pytest.Config, text: str) -> None:
    """Write a line to the terminal, while a test runs and its output is captured."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        sys.stderr.write(f"\nrobustness: {text}\n")


@functools.cache
def _code(sources: tuple[Path, ...]) -> str:
    """The digest of the source of all metrics, and of the files of one."""
    digest = hashlib.sha256()
    for file in (*sorted(Path(metrics.__file__).parent.rglob("*.py")), *sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _digest(images: Images, first: int, last: int) -> str:
    return images.digest(slice(first, last))
