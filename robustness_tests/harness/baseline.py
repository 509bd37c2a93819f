"""The last release, read from its results.json. Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from robustness_tests.subjects.catalog import closest

SCHEMA = 4
"""Version of the results.json format, see docs/results.md.

Increase it when a field is removed or changes its meaning, but not for a new field.
"""

ImageKey = tuple[str, int]
"""Norm and dataset index."""


@dataclass(frozen=True)
class Baseline:
    """The candidate of an earlier run.

    Attributes:
        file: path of the file, as on the command line.
        model: name of the candidate of that run.
        against: name of its reference.
        verdict: verdict of that run.
        finished: when the run ended.
        commit: git commit of the folder that pytest was called in.
        dataset: name of its dataset.
        effort: the budget for each image.
        seed: seed of everything that is random.
        sampling: which images were taken.
        image_digests: digests of its images, in order; none for bundled datasets.
        clever_radius: radius of CLEVER's ball for each norm.
        images: measurements of each image, by norm and dataset index: the candidate's rows of `images` in results.json.
        properties: the candidate's rows of `properties` in results.json.
        records: records of tests about the candidate, without those of single images.
    """

    file: str
    model: str
    against: str
    verdict: str
    finished: str
    commit: str | None
    dataset: str
    effort: str
    seed: int
    sampling: str
    image_digests: tuple[str, ...]
    clever_radius: Mapping[str, float]
    images: Mapping[ImageKey, Mapping[str, Any]]
    properties: tuple[Mapping[str, Any], ...]
    records: tuple[Mapping[str, Any], ...]

    def distance(self, norm: str, image: int) -> float | None:
        """The adversarial distance; infinite where no attack found anything, None where it was not measured."""
        row = self.images.get((norm, image), {})
        return math.inf if row.get("status") == "censored" else row.get("distance")

    def clever(self, norm: str, image: int) -> float | None:
        """The CLEVER score; infinite at the radius, as in comparisons of two models; None where there is none."""
        row = self.images.get((norm, image), {})
        return math.inf if row.get("clever_status") == "saturated" else row.get("clever")

    def certified(self, norm: str, image: int) -> float | None:
        """The certified distance; None where there is none."""
        return self.images.get((norm, image), {}).get("certified")

    def right(self) -> dict[int, bool]:
        """Whether each image was classified correctly, by dataset index; empty where that was not measured."""
        values = self._values("misclassified")
        wrong, count = values.get("misclassified"), values.get("images")
        if not isinstance(wrong, list) or not isinstance(count, int):
            return {}
        correct = values.get("correct", set(range(count)) - set(wrong))
        return {image: image not in wrong for image in sorted({*correct, *wrong})}

    def noise_shares(self, norm: str, epsilon: str) -> list[float]:
        """The share of right labels of each image with noise; empty where that was not measured."""
        shares = self._values("shares", norm, epsilon).get("shares")
        if not isinstance(shares, list) or not all(isinstance(share, int | float) for share in shares):
            return []
        return [float(share) for share in shares]

    def _values(self, having: str, norm: str | None = None, epsilon: str | None = None) -> Mapping[str, Any]:
        wanted = (norm, _number(epsilon))
        for record in self.records:
            about = record["about"]
            if having in record["values"] and (about.get("norm"), _number(about.get("epsilon"))) == wanted:
                values: Mapping[str, Any] = record["values"]
                return values
        return {}

    def value(
        self, property_name: str, norm: str | None, epsilon: str | None, *, images: int | None, reference: str | None
    ) -> float | None:
        """The value of this property, from the row with as many images and, in a comparison, the same reference."""
        wanted = (property_name, norm, _number(epsilon), images, reference)
        for row in self.properties:
            found = (row["property_name"], row["norm"], _number(row["epsilon"]), row["images"], row["reference"])
            # A comparison (a row with a p-value) may use only the images that the reference has right, too.
            if found == wanted or (row["p_value"] is None and found[:4] == wanted[:4]):
                return None if row["value"] is None else float(row["value"])
        return None


def _number(epsilon: object) -> object:
    try:
        return None if epsilon is None else float(str(epsilon))
    except ValueError:
        return epsilon


def load_baseline(path: Path, text: str) -> Baseline:
    """The baseline in a results.json.

    Raises:
        ValueError: for a file that cannot be read, is no results.json, is damaged, or has another schema.
    """
    content = read_results(path, text)
    try:
        return _baseline(content, text)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"got {text!r}, which is damaged ({type(error).__name__}: {error}), expected a results.json of this suite"
        ) from error


def _baseline(content: dict[str, Any], text: str) -> Baseline:
    run = content["run"]
    datetime.fromisoformat(content["finished"])
    records = [{"about": dict(record["about"]), "values": dict(record["values"])} for record in content["records"]]
    return Baseline(
        file=text,
        model=str(run["model"]),
        against=str(run["against"]),
        verdict=str(content["verdict"]),
        finished=content["finished"],
        commit=content.get("commit"),
        dataset=str(run["dataset"]),
        effort=str(run["effort"]),
        seed=int(run["seed"]),
        sampling=str(run.get("sampling", "first")),
        image_digests=tuple(str(digest) for digest in run["image_digests"]),
        clever_radius={str(norm): float(radius) for norm, radius in run["clever_radius"].items()},
        images={
            (str(row["norm"]), int(row["image"])): _checked_row(row)
            for row in content["images"]
            if row["model"] == run["model"]
        },
        properties=tuple(_checked_property(row) for row in content["properties"] if row["model"] == run["model"]),
        records=tuple(
            record
            for record in records
            if record["about"].get("model") == run["model"] and "image" not in record["about"]
        ),
    )


NUMBERS = ("distance", "clever", "certified")
COLUMNS = ("property_name", "norm", "epsilon", "images", "reference", "p_value", "value")


def _checked_row(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: None if row.get(name) is None else float(row[name]) for name in NUMBERS}
    return {**row, **numbers}


def _checked_property(row: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise KeyError(missing[0])
    return row


LARGEST_RESULTS = 500_000_000
"""Bytes. A run of 10,000 images writes 30 MB; a file that is larger by far would fill the memory."""


def read_results(path: Path, text: str) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        ValueError: for a file that cannot be read, is no results.json, or has another schema.
    """
    expected = "expected a results.json of this suite"
    try:
        size = path.stat().st_size
        written = path.read_bytes() if size <= LARGEST_RESULTS else b""
    except OSError as error:
        raise ValueError(f"got {text!r}, which cannot be read ({error.strerror}), {expected}") from error
    if size > LARGEST_RESULTS:
        raise ValueError(f"got {text!r} of {size / 1e6:,.0f} MB, expected at most {LARGEST_RESULTS / 1e6:.0f} MB")
    try:
        content = json.loads(written.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"got {text!r}, which is not JSON ({error}), {expected}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise ValueError(f"got {text!r}, JSON without a schema, {expected}")
    if content["schema"] != SCHEMA:
        raise ValueError(
            f"got {text!r} of schema {content['schema']}, expected {SCHEMA}: run the model of that release once more "
            "with this version of the suite"
        )
    fields = ("verdict", "finished", "run", "properties", "images", "records")
    missing = [name for name in fields if not isinstance(content.get(name), str | dict | list)]
    if missing:
        raise ValueError(f"got {text!r} without {', '.join(missing)}, {expected}")
    return content


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def check_baseline(
    baseline: Baseline,
    *,
    dataset: str,
    effort: str,
    seed: int,
    sampling: str,
    norms: tuple[str, ...],
    image_digests: tuple[str, ...],
    clever_radius: Mapping[str, float],
) -> None:
    """Refuse a baseline whose numbers cannot be compared with those of this run.

    Raises:
        ValueError: for another dataset, effort, seed or radius, other images under the same numbers, or no norm in
            common.
    """
    said = f"got {baseline.file!r}"
    if baseline.sampling != sampling:
        raise ValueError(f"{said}, measured with --sample={baseline.sampling}, expected {sampling}, as in this run")
    if baseline.dataset != dataset:
        raise ValueError(f"{said}, measured on {baseline.dataset!r}, {closest(dataset, [baseline.dataset])}")
    pairs = zip(baseline.image_digests, image_digests, strict=False)
    differs = next((index for index, (old, new) in enumerate(pairs) if old != new), None)
    if differs is not None:
        raise ValueError(
            f"{said}, whose image {differs:05d} is not that of {dataset!r} today, expected the same images: "
            "measure the last release on these"
        )
    for name, old, new in (("effort", baseline.effort, effort), ("seed", baseline.seed, seed)):
        if old != new:
            raise ValueError(f"{said}, measured with {name} {old}, expected {new}, as in this run")
    common = [norm for norm in norms if any(key[0] == norm for key in baseline.images)]
    if not common:
        raise ValueError(f"{said}, which has no image in {' or '.join(norms)}, expected one of the norms of this run")
    for norm in common:
        old_radius, new_radius = baseline.clever_radius.get(norm, math.nan), clever_radius[norm]
        if not math.isclose(old_radius, new_radius, rel_tol=1e-9):
            raise ValueError(
                f"{said}, whose CLEVER radius is {old_radius:g} in {norm}, expected {new_radius:g}: run with "
                f"--clever-radius {norm}={old_radius:g}"
            )
