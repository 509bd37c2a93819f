"""The last release: what its results.json says of the same images. Imports no torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness_tests.subjects.catalog import closest

SCHEMA = 2
"""Of results.json, see docs/results.md. Raised when a field is removed or changes its meaning, not for a new one."""

ImageKey = tuple[str, int]
"""Norm and dataset index."""


@dataclass(frozen=True)
class Baseline:
    """The candidate of an earlier run.

    Attributes:
        file: where it was read, as on the command line.
        model: name of the candidate of that run.
        verdict: of that run.
        finished: when it ended.
        commit: of the folder that it was called in.
        dataset: name of its dataset.
        effort: the budget of each image.
        seed: of everything that is random.
        image_digests: of its images, in order; none for the bundled dataset.
        clever_radius: radius of CLEVER's ball for each norm.
        images: what was measured of each image, by norm and dataset index: rows of `images` in results.json.
        properties: rows about the candidate: rows of `properties` in results.json.
        values: what tests about it have measured, by property, norm and epsilon.
    """

    file: str
    model: str
    verdict: str
    finished: str
    commit: str | None
    dataset: str
    effort: str
    seed: int
    image_digests: tuple[str, ...]
    clever_radius: Mapping[str, float]
    images: Mapping[ImageKey, Mapping[str, Any]]
    properties: tuple[Mapping[str, Any], ...]
    values: Mapping[tuple[str, str | None, str | None], Mapping[str, Any]]

    def distance(self, norm: str, image: int) -> float | None:
        """The adversarial distance; infinite where no attack found anything, None where it was not measured."""
        row = self.images.get((norm, image), {})
        if row.get("status") == "censored":
            return math.inf
        distance = row.get("distance")
        return None if distance is None else float(distance)

    def clever(self, norm: str, image: int) -> float | None:
        """The CLEVER score; infinite at the radius, as in comparisons of two models; None where there is none."""
        row = self.images.get((norm, image), {})
        if row.get("clever_status") == "saturated":
            return math.inf
        score = row.get("clever")
        return None if score is None else float(score)

    def certified(self, norm: str, image: int) -> float | None:
        """The certified distance; None where there is none."""
        value = self.images.get((norm, image), {}).get("certified")
        return None if value is None else float(value)

    def value(self, property_name: str, norm: str | None, epsilon: str | None) -> float | None:
        """The value in the row of this property, if that run has it; epsilons are compared as numbers."""
        for row in self.properties:
            same = row["property_name"] == property_name and row["norm"] == norm
            if same and _number(row["epsilon"]) == _number(epsilon):
                return None if row["value"] is None else float(row["value"])
        return None


def _number(epsilon: str | None) -> float | str | None:
    try:
        return None if epsilon is None else float(epsilon)
    except ValueError:
        return epsilon


def load_baseline(path: Path, text: str) -> Baseline:
    """The baseline in a results.json.

    Raises:
        ValueError: for a file that cannot be read, is no results.json, or has another schema.
    """
    content = read_results(path, text)
    run = content["run"]
    ours = [row for row in content["properties"] if row["model"] == run["model"]]
    about = [record for record in content["records"] if record["about"].get("model") == run["model"]]
    return Baseline(
        file=text,
        model=run["model"],
        verdict=content["verdict"],
        finished=content["finished"],
        commit=content.get("commit"),
        dataset=run["dataset"],
        effort=run["effort"],
        seed=run["seed"],
        image_digests=tuple(run["image_digests"]),
        clever_radius=run["clever_radius"],
        images={(row["norm"], row["image"]): row for row in content["images"] if row["model"] == run["model"]},
        properties=tuple(ours),
        values={
            (record["about"]["property"], record["about"].get("norm"), record["about"].get("epsilon")): record["values"]
            for record in about
            if "image" not in record["about"] and "property" in record["about"]
        },
    )


def read_results(path: Path, text: str) -> dict[str, Any]:
    """The content of a results.json.

    Raises:
        ValueError: for a file that cannot be read, is no results.json, or has another schema.
    """
    expected = "expected a results.json of this suite"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"got {text!r}, which cannot be read ({error.strerror}), {expected}") from error
    except ValueError as error:  # no JSON, or no text
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


def check_baseline(
    baseline: Baseline,
    *,
    dataset: str,
    effort: str,
    seed: int,
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
        old_radius, new_radius = baseline.clever_radius[norm], clever_radius[norm]
        if not math.isclose(old_radius, new_radius, rel_tol=1e-9):
            raise ValueError(
                f"{said}, whose CLEVER radius is {old_radius:g} in {norm}, expected {new_radius:g}: run with "
                f"--clever-radius {norm}={old_radius:g}"
            )
