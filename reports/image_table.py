"""The table of images, as data for report.js."""

from collections.abc import Sequence
from typing import Any

from reports.images import VERDICTS, ImageRow
from reports.results import Results

COLUMNS = (
    "image",
    "model",
    "norm",
    "label",
    "predicted",
    "attacked into",
    "certified",
    "CLEVER",
    "adversarial distance",
    "CLEVER / distance",
    "distance - reference",
    "checks",
    "why",
)


FILTERS = ("model", "norm", "checks", "image")


def image_table(results: Results) -> dict[str, Any]:
    """The table of images, for report.js."""
    names = results.run.get("class_names") or []
    theirs = {(row.norm, row.image): row.distance for row in results.images if row.model == results.against}

    def line(row: ImageRow) -> list[Any]:
        other = theirs.get((row.norm, row.image)) if row.model == results.model else None
        # Only if attacks succeeded on both models; the distance of a misclassified image is 0.
        change = row.distance - other if row.distance and other else None
        return [
            row.image,
            row.model,
            row.norm,
            class_name(names, row.label),
            class_name(names, row.clean_class),
            class_name(names, row.adversarial_class),
            _rounded(row.certified),
            _rounded(row.clever),
            _rounded(row.distance),
            _rounded(row.ratio),
            _rounded(change),
            row.verdict,
            row.message,
        ]

    lines = [line(row) for row in results.images]
    used = [
        number
        for number, name in enumerate(COLUMNS)
        if name in FILTERS or any(one[number] not in (None, "") for one in lines)
    ]
    names_used = [COLUMNS[number] for number in used]
    return {
        "columns": names_used,
        "rows": [[one[number] for number in used] for one in lines],
        "filters": {name: names_used.index(name) for name in FILTERS},
        "models": results.models,
        "norms": results.norms,
        "verdicts": [verdict for verdict in VERDICTS if any(row.verdict == verdict for row in results.images)],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.8g}")


def class_name(names: Sequence[str], number: int | None) -> str | int | None:
    """The name of a class, or its number where the dataset has no names."""
    return names[number] if number is not None and number < len(names) else number
