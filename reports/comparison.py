"""Two or more runs side by side: the numbers of their candidates, and changes since the first on the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from metrics.statistics import compare
from reports.figures.all_figures import Figure
from reports.figures.changes import since_baseline
from reports.figures.distances import distribution
from reports.results import Results
from reports.rows import Row, value_text


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side.

    Attributes:
        names: of the runs, the first one is what the others are compared with.
        notes: why numbers may not be comparable.
        rows: property, and the value in each run; empty where a run has none.
        changes: norm, run, and how the distances have changed since the first run.
        figures: of the changes.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    changes: tuple[tuple[str, ...], ...]
    figures: tuple[Figure, ...]


def comparison(runs: Sequence[Results], files: Sequence[str]) -> RunComparison:
    """The runs, the first one being what the others are compared with."""
    names = tuple(f"{run.model}, {run.finished[:10]} ({file})" for run, file in zip(runs, files, strict=True))
    first = runs[0]
    return RunComparison(
        names=names,
        notes=tuple(_notes(runs, files)),
        rows=tuple(_rows(runs)),
        changes=tuple(
            (norm, name, *_change(first, run, norm))
            for norm in first.norms
            for name, run in zip(names[1:], runs[1:], strict=True)
        ),
        figures=tuple(_figures(first, runs[1:], names)),
    )


SAME = ("dataset", "effort", "seed", "clever_radius")
"""Options that must be equal for the numbers of several runs to be comparable."""


def _notes(runs: Sequence[Results], files: Sequence[str]) -> list[str]:
    notes = []
    for run, file in zip(runs[1:], files[1:], strict=True):
        other = [name for name in SAME if run.run[name] != runs[0].run[name]]
        digests = zip(run.run["image_digests"], runs[0].run["image_digests"], strict=False)
        other += ["images"] if any(new != old for new, old in digests) else []
        if other:
            notes.append(f"{file} and {files[0]} differ in {', '.join(other)}: do not compare their numbers.")
        counts = [one.run["images"] for one in (runs[0], run)]
        if counts[0] != counts[1]:
            notes.append(
                f"{files[0]} has {counts[0]} images and {file} has {counts[1]}: their numbers are not from the same "
                "images. The changes below are for the images that both have."
            )
    return notes


Place = tuple[str, str | None, str | None]


def _rows(runs: Sequence[Results]) -> list[tuple[str, ...]]:
    tables: list[dict[Place, Row]] = [
        {
            (row.property_name, row.norm, row.epsilon): row
            for row in run.properties
            if row.model == run.model and row.value is not None
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows: list[tuple[str, ...]] = [("verdict", *(run.verdict for run in runs))]
    for key in keys:
        found = [table.get(key) for table in tables]
        title = next(row.title for row in found if row is not None)
        rows.append((title, *("" if row is None else _text(row) for row in found)))
    return rows


def _text(row: Row) -> str:
    value = value_text(row, row.value)
    return value if row.outcome == "passed" else f"{value} ({row.outcome})"


def _distances(run: Results, norm: str) -> dict[int, float]:
    """Adversarial distances of the correctly classified images, by index; infinite where no attack succeeded."""
    rows = [row for row in run.of(run.model, norm) if row.status in ("attacked", "censored")]
    return {row.image: float("inf") if row.distance is None else row.distance for row in rows}


def _change(first: Results, run: Results, norm: str) -> tuple[str, ...]:
    old, new = _distances(first, norm), _distances(run, norm)
    images = sorted(old.keys() & new.keys())
    if not images:
        return ("no image in common", "", "")
    result = compare([new[image] for image in images], [old[image] for image in images])
    change = result.difference
    return (
        f"{result.reference:.4g} to {result.candidate:.4g}",
        f"{change.value:+.4g} ({_ends(change.lower, change.upper)})",
        str(result.pairs),
    )


def _ends(lower: float, upper: float) -> str:
    if math.isinf(lower) and math.isinf(upper):
        return "too few images for an interval"
    return f"{lower:+.4g} to {upper:+.4g}"


def _figures(first: Results, others: Sequence[Results], names: Sequence[str]) -> list[Figure]:
    figures = []
    for name, run in zip(names[1:], others, strict=True):
        last: dict[str, Any] = {
            "images": [
                {"norm": row.norm, "image": row.image, "distance": row.distance, "status": row.status}
                for row in first.images
                if row.model == first.model
            ]
        }
        both = replace(run, baseline=last)
        caption = f"{name} compared with {names[0]}, which the figures call the last release."
        panels = (*distribution(both), *since_baseline(both))
        if panels:
            figures.append(Figure(f"Adversarial distances of {name}", "since", caption, panels))
    return figures


CHANGES = ("norm", "run", "median adversarial distance", "median change (95 % interval)", "images")
