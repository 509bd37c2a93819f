"""Adversarial distances: their distribution, robust accuracy, brackets with the certified ones, and convergence."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from metrics.statistics import share
from reports.figures.panel import (
    LINES,
    NORM_NAMES,
    PLACEHOLDERS,
    Panel,
    colour,
    column,
    panel,
    plain_logarithmic,
    rasterized,
    short,
    whole_numbers,
)
from reports.images import ImageRow, known
from reports.results import Results
from robustness_tests.harness.run import TRACED

GRID = 200
"""Points of a curve."""

DISTANCE = "adversarial distance (image range 0 to 1)"

Numbers = NDArray[np.float64]


def finite_distances(rows: Sequence[ImageRow]) -> tuple[Numbers, int]:
    """The sorted finite distances, and the number of images with a status: censored distances count as infinite."""
    judged = [row for row in rows if row.status]
    return np.sort([row.distance for row in judged if row.distance is not None]), len(judged)


def distribution(results: Results) -> list[Panel]:
    """The share of images whose label an attack changes within a distance: candidate, reference, last release."""
    return [panel(NORM_NAMES[norm], partial(_distribution, results, norm)) for norm in _attacked(results)]


def _attacked(results: Results) -> list[str]:
    return [norm for norm in results.norms if any(row.norm == norm and row.status for row in results.images)]


def _distribution(results: Results, norm: str, axes: Axes) -> str:
    texts = []
    for number, model in enumerate(results.models):
        values, count = finite_distances(results.of(model, norm))
        if count:
            _steps(axes, values, count, colour(number), LINES[number], short(model))
            half = (count - 1) // 2
            middle = f"{values[half]:.4g}" if len(values) > half else "more than attacks found"
            texts.append(f"half of {count} images of {model} are attacked within {middle}")
    last = [one for one in (results.baseline or {}).get("images", []) if one["norm"] == norm and one["status"]]
    if last:
        values = np.sort([one["distance"] for one in last if one["distance"] is not None])
        _steps(axes, values, len(last), PLACEHOLDERS["baseline"], ":", "last release")
    axes.set(xlabel=DISTANCE, ylabel="share of images", ylim=(0, 1.02), xlim=(0, None))
    return f"{'; '.join(texts)}."


def _steps(axes: Axes, values: Numbers, count: int, shown: str, line: str, label: str) -> None:
    shares = np.arange(1, len(values) + 1) / count
    axes.step([0, *values], [0, *shares], where="post", color=shown, linestyle=line, linewidth=1.6, label=label)


def robust_accuracy(results: Results) -> list[Panel]:
    """Robust accuracy against epsilon with its interval; the certified accuracy of the candidate below it."""
    return [panel(NORM_NAMES[norm], partial(_robust, results, norm)) for norm in _attacked(results)]


def _robust(results: Results, norm: str, axes: Axes) -> str:
    furthest = max((row.distance or 0.0 for row in results.images if row.norm == norm), default=0.0)
    texts = [
        _robust_of_model(
            axes, results.of(model, norm), model, number, furthest, float(results.thresholds["confidence"])
        )
        for number, model in enumerate(results.models)
        if finite_distances(results.of(model, norm))[1]
    ]
    texts += [*_certified(axes, results.of(results.model, norm)), *_needed(axes, results, norm)]
    axes.set(xlabel="epsilon (image range 0 to 1)", ylabel="share of images", ylim=(0, 1.02), xlim=(0, None))
    return f"{'; '.join(texts)}."


def _robust_of_model(
    axes: Axes, rows: Sequence[ImageRow], model: str, number: int, furthest: float, confidence: float
) -> str:
    values, count = finite_distances(rows)
    grid = np.linspace(0, furthest, GRID)
    epsilons = np.unique([0.0, *values, *grid]) if len(values) <= GRID else grid
    held = count - np.searchsorted(values, epsilons, side="right")
    ends = {robust: share(int(robust), count, confidence) for robust in np.unique(held)}
    lower, upper = ([getattr(ends[robust], name) for robust in held] for name in ("lower", "upper"))
    axes.fill_between(epsilons, lower, upper, step="post", color=colour(number), alpha=0.15, linewidth=0)
    axes.step(epsilons, held / count, where="post", color=colour(number), linestyle=LINES[number], label=short(model))
    middle = int(np.searchsorted(epsilons, furthest / 2, side="right")) - 1
    return (
        f"{model} keeps the label of {held[0] / count:.0%} of {count} images as they are, "
        f"and of {held[middle] / count:.0%} at {furthest / 2:.3g}"
    )


def _certified(axes: Axes, rows: Sequence[ImageRow]) -> list[str]:
    # An image without a certificate counts as certified up to 0.
    tried = [row for row in rows if row.certified_status]
    if not any(row.certified for row in tried):
        return []
    values = np.sort([row.certified or 0.0 for row in tried])
    _falling(axes, values, len(tried), "-.", f"certified accuracy, {len(tried)} images")
    if len(tried) < len(rows):
        # The robust accuracy of all images may be below the certified accuracy of some: show that of the same ones.
        _falling(axes, *finite_distances(tried), ":", "robust accuracy of the same")
    return [f"half of {len(values)} images are certified up to {values[(len(values) - 1) // 2]:.4g}"]


def _falling(axes: Axes, values: np.ndarray, count: int, line: str, label: str) -> None:
    """Draw the share of `count` images that is left above each of the sorted values."""
    shares = 1 - np.arange(1, len(values) + 1) / count
    axes.step([0, *values], [1, *shares], where="post", color=PLACEHOLDERS["exact"], linestyle=line, label=label)


def _needed(axes: Axes, results: Results, norm: str) -> list[str]:
    rows = [
        row
        for row in results.properties
        if row.property_name == "test_robust_accuracy" and row.norm == norm and row.threshold is not None
    ]
    if not rows:
        return []
    axes.scatter(
        [float(row.epsilon or 0) for row in rows],
        column(rows, "threshold"),
        marker="_",
        s=160,
        linewidths=2.5,
        color=PLACEHOLDERS["bad"],
        zorder=3,
        label="needed",
    )
    return [f"{row.threshold or 0:.0%} needed at {row.epsilon}" for row in rows]


def brackets(results: Results) -> list[Panel]:
    """From the certified to the adversarial distance of each image of a model, with its CLEVER score."""
    panels = []
    for norm in results.norms:
        for number, model in enumerate(results.models):
            rows = [row for row in results.of(model, norm) if known(row.certified) and known(row.distance)]
            rows.sort(key=lambda row: row.distance or 0.0)
            if rows:
                panels.append(panel(f"{NORM_NAMES[norm]}, {short(model)}", partial(_brackets, rows, number)))
    return panels


def _brackets(rows: Sequence[ImageRow], number: int, axes: Axes) -> str:
    ranks, many = np.arange(1, len(rows) + 1), rasterized(len(rows))
    lower, upper = column(rows, "certified"), column(rows, "distance")
    axes.vlines(
        ranks,
        lower,
        upper,
        color=colour(number),
        linewidth=3 if len(rows) <= 40 else 1.5,
        alpha=0.45,
        label="certified to adversarial",
        rasterized=many,
    )
    for name, label, marker, shown in (("clever", "CLEVER", "x", "ink"), ("exact", "exact", "D", "exact")):
        values = column(rows, name)
        there = values > 0
        if there.any():
            axes.scatter(
                ranks[there],
                values[there],
                marker=marker,
                color=PLACEHOLDERS[shown],
                s=16,
                linewidths=1.1,
                label=label,
                rasterized=many,
            )
    axes.set(yscale="log", xlabel="certified images, by adversarial distance", ylabel="distance (range 0 to 1)")
    plain_logarithmic(axes.yaxis)
    whole_numbers(axes.xaxis)
    return f"{len(rows)} images, median of certified / adversarial distance {float(np.median(lower / upper)):.2f}."


def convergence(results: Results) -> list[Panel]:
    """Distance after each number of queries, divided by the final distance: median and 90th percentile."""
    panels = []
    for norm in results.norms:
        traces = {
            model: np.array([row.trace for row in rows], dtype=float)
            for model in results.models
            if (rows := [row for row in results.of(model, norm) if row.trace and known(row.distance)])
        }
        if traces:
            panels.append(panel(NORM_NAMES[norm], partial(_convergence, traces, results.models)))
    return panels


def _convergence(traces: dict[str, Numbers], models: Sequence[str], axes: Axes) -> str:
    texts, longest = [], 2
    for model, trace in traces.items():
        # Nothing found yet counts as infinite.
        ratios = np.where(np.isnan(trace), np.inf, trace) / trace[:, -1:]
        last = int(np.argmax((ratios <= 1).all(axis=0))) + 1
        queries, longest = TRACED[:last], max(longest, last)
        middle, tenth = (np.quantile(ratios, part, axis=0, method="higher")[:last] for part in (0.5, 0.9))
        shown = colour(models.index(model))
        axes.plot(queries, middle, color=shown, marker="o", markersize=3.5, label=f"{short(model)}, median")
        axes.plot(queries, tenth, color=shown, linestyle=":", label=f"{short(model)}, 90th percentile")
        texts.append(f"the median of {model} is within 1 % of its end after {_within(queries, middle)} queries")
    axes.set(xscale="log", xlabel="queries of the attack on an image", ylabel="distance / distance at the end")
    axes.set_ylim(0.98, 2.0)
    plain_logarithmic(axes.xaxis)
    axes.set_xlim(0.9, TRACED[longest - 1] * 1.1)
    return f"{'; '.join(texts)}."


def _within(queries: Sequence[int], ratios: Numbers) -> int:
    return next(query for query, ratio in zip(queries, ratios, strict=True) if ratio <= 1.01)
