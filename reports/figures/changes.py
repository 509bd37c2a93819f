"""Differences of adversarial distances, image by image: from the reference, and from the last release."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from metrics.statistics import median
from reports.figures.panel import NORM_NAMES, PLACEHOLDERS, Panel, panel, whole_numbers
from reports.results import Results
from robustness_tests.harness.worst import difference


def against_reference(results: Results) -> list[Panel]:
    """Candidate minus reference, sorted, over the images that both classify correctly."""
    if results.against is None:
        return []
    theirs = {(row.norm, row.image): row.reach for row in results.images if row.model == results.against}
    return _panels(results, theirs)


def since_baseline(results: Results) -> list[Panel]:
    """Candidate now minus candidate of the last release, sorted."""
    if results.baseline is None:
        return []
    last = results.baseline["images"]
    theirs = {(one["norm"], one["image"]): math.inf if one["status"] == "censored" else one["distance"] for one in last}
    return _panels(results, theirs)


def _panels(results: Results, theirs: Mapping[tuple[str, int], float | None]) -> list[Panel]:
    panels = []
    for norm in results.norms:
        pairs = [(row.reach, theirs.get((norm, row.image))) for row in results.of(results.model, norm)]
        changes = [difference(ours, other) for ours, other in pairs if ours and other]
        if changes:
            panels.append(panel(NORM_NAMES[norm], partial(_draw, changes, results)))
    return panels


def _draw(changes: Sequence[float], results: Results, axes: Axes) -> str:
    exact = np.sort(changes)
    # Where an attack found nothing, the bar ends a little beyond the others.
    finite = np.abs(exact[np.isfinite(exact)])
    beyond = 1.1 * float(finite.max(initial=0.0)) or 1.0
    ordered = exact.clip(-beyond, beyond)
    ranks = np.arange(1, len(ordered) + 1)
    for side, role, label in ((1, "candidate", "larger"), (-1, "bad", "smaller")):
        some = np.where(side * ordered > 0, ordered, 0.0)
        count = int((side * ordered > 0).sum())
        axes.fill_between(
            ranks, 0, some, step="mid", color=PLACEHOLDERS[role], alpha=0.75, linewidth=0, label=f"{label} ({count})"
        )
    middle = median(list(changes), float(results.thresholds.get("confidence", 0.95)))
    axes.axhline(0, color=PLACEHOLDERS["ink"], linewidth=0.8)
    axes.axhline(
        float(np.clip(middle.value, -beyond, beyond)),
        color=PLACEHOLDERS["ink"],
        linestyle="--",
        linewidth=1,
        label="median",
    )
    axes.set(xlabel="images, by difference", ylabel="difference of adversarial distances")
    whole_numbers(axes.xaxis)
    larger, smaller = int((ordered > 0).sum()), int((ordered < 0).sum())
    return (
        f"larger for {larger} and smaller for {smaller} of {len(ordered)} images, median difference "
        f"{middle.value:+.4g} ({middle.lower:+.4g} to {middle.upper:+.4g})."
    )
