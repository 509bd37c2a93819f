"""What a run has shown of each image: one row for each model, norm and image."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robustness_tests.harness.records import UNJUDGED, VIOLATED, Record
from robustness_tests.harness.run import Run

VERDICTS = ("failed", "error", "violation", "misclassified", "not judged", "passed")
"""Verdicts on an image, the worst first:

- failed: a test about the image failed,
- error: a test about it could not be done,
- violation: its CLEVER score is above its adversarial distance, or missing because gradients are masked,
- misclassified: the clean image is misclassified,
- not judged: a test was skipped, for example because there is no score or no distance to compare,
- passed: nothing is wrong.
"""


@dataclass(frozen=True)
class ImageRow:
    """Results for one model, norm and image. Values that were not measured or are infinite are None.

    Attributes:
        model: name of the model.
        norm: norm of the perturbations.
        image: dataset index.
        label: its class.
        clean_class: the class that the model puts the clean image into.
        clean_confidence: softmax of the logit of that class.
        adversarial_class: the class of the adversarial image.
        adversarial_confidence: softmax of the logit of that class.
        status: attacked, misclassified or censored.
        distance: adversarial distance, an upper bound.
        clever: CLEVER score, an estimated lower bound.
        clever_lower: lower end of its 95 % interval.
        clever_upper: upper end.
        clever_status: estimated, saturated, misclassified or unavailable.
        clever_verdict: outcome of the test that it is not above the distance: passed, xfailed (it is) or skipped.
        certified: certified distance, a proved lower bound.
        certified_status: certified, misclassified or unavailable; None if that was not tried.
        exact: the true distance.
        ratio: CLEVER / adversarial distance.
        trace: adversarial distances after 1, 2, 5, 10, ... queries of the attack.
        forward: forward passes spent on the adversarial distance.
        stored_at: where clean and adversarial image are stored: file in the folder of measurements, and row in it.
        verdict: one of `VERDICTS`.
        message: reason for any verdict but "passed", in a sentence.
    """

    model: str
    norm: str
    image: int
    label: int | None = None
    clean_class: int | None = None
    clean_confidence: float | None = None
    adversarial_class: int | None = None
    adversarial_confidence: float | None = None
    status: str | None = None
    distance: float | None = None
    clever: float | None = None
    clever_lower: float | None = None
    clever_upper: float | None = None
    clever_status: str | None = None
    clever_verdict: str | None = None
    certified: float | None = None
    certified_status: str | None = None
    exact: float | None = None
    ratio: float | None = None
    trace: list[float | None] = field(default_factory=list)
    forward: int | None = None
    stored_at: str | None = None
    verdict: str = "passed"
    message: str = ""

    @property
    def reach(self) -> float | None:
        """The adversarial distance for comparisons: infinite where no attack found anything, None if not measured."""
        return math.inf if self.status == "censored" else self.distance

    @property
    def key(self) -> tuple[str, str, int]:
        """Model, norm and image."""
        return (self.model, self.norm, self.image)


def image_rows(records: Iterable[Record], run: Run) -> list[ImageRow]:
    """The rows of a run, by model, norm and image."""
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        image = record.about.get("image")
        if isinstance(image, int) and {"model", "norm"} <= record.about.keys():
            groups.setdefault((str(record.about["norm"]), str(record.about["model"]), image), []).append(record)
    known = [(norm, model) for model in run.models for norm in run.norms]
    order = {key: number for number, key in enumerate(known)}
    keys = sorted(groups, key=lambda key: (order.get(key[:2], len(order)), key))
    return [_row(*key, groups[key]) for key in keys]


SOURCES: dict[str, dict[str, str]] = {
    "distance": {
        name: name
        for name in (
            "label",
            "clean_class",
            "clean_confidence",
            "adversarial_class",
            "adversarial_confidence",
            "status",
            "distance",
            "trace",
            "forward",
            "stored_at",
        )
    },
    "clever": {"clever": "clever", "clever_lower": "lower", "clever_upper": "upper", "clever_status": "status"},
    "certified": {"certified": "certified", "certified_status": "status", "exact": "exact"},
}
"""Columns that each property of images feeds (see `@pytest.mark.about`), and their names in its record."""


def _row(norm: str, model: str, image: int, records: list[Record]) -> ImageRow:
    values: dict[str, Any] = {}
    for record in records:
        feeds = str(record.about.get("feeds"))
        columns = SOURCES.get(feeds, {})
        found = {column: record.values.get(name) for column, name in columns.items()}
        values |= {column: value for column, value in found.items() if value is not None}
        if feeds == "clever":
            values["clever_verdict"] = record.outcome
            # The same number as from the distance test, in case that test was not run.
            values.setdefault("distance", record.values.get("distance"))
    score, distance = values.get("clever"), values.get("distance")
    if score is not None and distance:
        values["ratio"] = score / distance
    verdict, message = _verdict(records, values)
    return ImageRow(model=model, norm=norm, image=image, verdict=verdict, message=message, **values)


def _verdict(records: list[Record], values: Mapping[str, Any]) -> tuple[str, str]:
    for verdict, outcomes in (("failed", VIOLATED), ("error", UNJUDGED), ("violation", ("xfailed",))):
        found = [record for record in records if record.outcome in outcomes]
        if found:
            return verdict, found[0].message
    if values.get("status") == "misclassified":
        return "misclassified", f"class {values.get('clean_class')} without any perturbation"
    skipped = [record for record in records if record.outcome == "skipped"]
    if skipped:
        return "not judged", skipped[0].message
    return "passed", ""


def known(value: float | None) -> bool:
    """Whether a number is finite and positive, so that a logarithmic axis can show it."""
    return value is not None and math.isfinite(value) and value > 0
