"""CLEVER scores: against adversarial distances, and how one of them came about."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from reports.figures.panel import (
    MARKERS,
    NORM_NAMES,
    PLACEHOLDERS,
    Panel,
    colour,
    column,
    panel,
    plain_logarithmic,
    rasterized,
    short,
)
from reports.images import ImageRow, known
from reports.results import Results


def scatter(results: Results) -> list[Panel]:
    """CLEVER against adversarial distance, for each norm and model; a whisker goes to the certified distance."""
    return [
        panel(f"{NORM_NAMES[norm]}, {short(model)}", partial(_scatter, rows, number))
        for norm in results.norms
        for number, model in enumerate(results.models)
        if (rows := [row for row in results.of(model, norm) if known(row.clever) and known(row.distance)])
    ]


def _scatter(rows: Sequence[ImageRow], number: int, axes: Axes) -> str:
    kinds = {
        "below the distance": [row for row in rows if row.clever_verdict == "passed"],
        "at the radius": [row for row in rows if row.clever_verdict == "skipped"],
        "above the distance": [row for row in rows if row.clever_verdict == "xfailed"],
    }
    certified = [row for row in rows if known(row.certified)]
    if certified:
        axes.hlines(
            column(certified, "clever"),
            column(certified, "certified"),
            column(certified, "distance"),
            color=PLACEHOLDERS["muted"],
            linewidth=0.8,
            label=f"certified to adversarial ({len(certified)})",
            rasterized=rasterized(len(certified)),
        )
    for name, some in kinds.items():
        if some:
            violated, open_marker = name == "above the distance", name == "at the radius"
            shown = PLACEHOLDERS["bad"] if violated else colour(number)
            axes.scatter(
                column(some, "distance"),
                column(some, "clever"),
                s=34 if violated else 18,
                marker="X" if violated else MARKERS[number],
                facecolors="none" if open_marker else shown,
                edgecolors=shown,
                linewidths=0.8,
                alpha=1.0 if violated else 0.75,
                label=f"{name} ({len(some)})",
                rasterized=rasterized(len(some)),
            )
    values = np.concatenate([column(rows, "distance"), column(rows, "clever")])
    ends = [values.min() * 0.8, values.max() * 1.25]
    axes.plot(ends, ends, color=PLACEHOLDERS["ink"], linewidth=1, linestyle="--", zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="adversarial distance (image range 0 to 1)", ylabel="CLEVER score")
    plain_logarithmic(axes.xaxis)
    plain_logarithmic(axes.yaxis)
    ratio = float(np.median(column(rows, "ratio")))
    above = len(kinds["above the distance"])
    return f"{above} of {len(rows)} scores above the diagonal, median of CLEVER / adversarial distance {ratio:.2f}."


def fits(results: Results) -> list[Panel]:
    """Convergence and fit of one score: of the candidate's image with the largest CLEVER / distance, for each norm."""
    panels = []
    for norm in results.norms:
        fit = _fit_of(results, norm)
        if fit:
            title = f"{NORM_NAMES[norm]}, image {fit['image']:05d}"
            panels.append(panel(f"{title}, convergence", partial(_convergence, fit)))
            panels.append(panel(f"{title}, fit", partial(_fit, fit)))
    return panels


def _fit_of(results: Results, norm: str) -> Mapping[str, Any] | None:
    for record in results.records:
        about = record.about
        if about.get("feeds") == "clever_share" and about.get("norm") == norm:
            fit = record.values.get("fit")
            if about.get("model") == results.model and fit:
                return dict(fit)  # written by harness/clever_fit.py
    return None


def _convergence(fit: Mapping[str, Any], axes: Axes) -> str:
    blue = PLACEHOLDERS["candidate"]
    axes.fill_between(fit["blocks"], fit["lower"], fit["upper"], color=blue, alpha=0.2, label="95 % interval")
    axes.plot(fit["blocks"], fit["scores"], color=blue, marker="o", markersize=3.5, label="CLEVER score")
    raw = [min(fit["radius"], fit["margin"] / max(fit["maxima"][:count])) for count in fit["blocks"]]
    axes.plot(fit["blocks"], raw, color=PLACEHOLDERS["muted"], linestyle=":", label="without a fit")
    axes.axhline(fit["distance"], color=PLACEHOLDERS["bad"], linestyle="--", label="adversarial distance")
    axes.set(xlabel="blocks of samples", ylabel="CLEVER score", ylim=(0, None))
    first, last = fit["scores"][0], fit["scores"][-1]
    return (
        f"the score was {first:.4g} after {fit['blocks'][0]} blocks and is {last:.4g} after {fit['blocks'][-1]} "
        f"({fit['lower'][-1]:.4g} to {fit['upper'][-1]:.4g}), the adversarial distance is {fit['distance']:.4g}."
    )


def _fit(fit: Mapping[str, Any], axes: Axes) -> str:
    maxima = np.sort(np.asarray(fit["maxima"], dtype=float))
    count = len(maxima)
    axes.step(
        maxima,
        np.arange(1, count + 1) / count,
        where="post",
        color=PLACEHOLDERS["candidate"],
        label="largest of a block",
    )
    end, shape = fit["lipschitz"], fit["shape"]
    text = f"{count} block maxima from {maxima[0]:.4g} to {maxima[-1]:.4g}, end-point {end:.4g}"
    if shape is not None and maxima[0] < end and maxima[-1] < end:
        # The scale that is the most likely one for this end-point and shape.
        scale = float(np.mean((end - maxima) ** shape) ** (1 / shape))
        grid = np.linspace(maxima[0] - 0.1 * (end - maxima[0]), end, 200)
        fitted = np.exp(-(((end - grid) / scale) ** shape))
        axes.plot(grid, fitted, color=PLACEHOLDERS["ink"], linewidth=1, label="fitted reverse Weibull distribution")
        text += f", p-value of the fit {fit['p_value']:.2f}"
    axes.axvline(end, color=PLACEHOLDERS["bad"], linestyle="--", label="end-point: Lipschitz constant")
    axes.set(xlabel="dual norm of the gradient", ylabel="share of the blocks", ylim=(0, 1.02))
    if not math.isclose(end, maxima[0]):
        axes.margins(x=0.05)
    return f"{text}."
