"""Adversarial distance and CLEVER score of each image, in the order of the distances."""

from collections.abc import Sequence
from functools import partial

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
    short,
    whole_numbers,
)
from reports.images import ImageRow, known
from reports.results import Results


def ranked(results: Results) -> list[Panel]:
    """One panel for each norm and model."""
    return [
        panel(f"{NORM_NAMES[norm]}, {short(model)}", partial(_ranked, rows, number))
        for norm in results.norms
        for number, model in enumerate(results.models)
        if (rows := [row for row in results.of(model, norm) if known(row.clever) and known(row.distance)])
    ]


def _ranked(rows: Sequence[ImageRow], number: int, axes: Axes) -> str:
    rows = sorted(rows, key=lambda row: (row.distance or 0.0, row.image))
    ranks, distances, scores = np.arange(1, len(rows) + 1), column(rows, "distance"), column(rows, "clever")
    above = np.array([row.clever_verdict == "xfailed" for row in rows])
    axes.step(ranks, distances, where="mid", color=colour(number), label="adversarial distance")
    for chosen, role, label in (
        (~above, "muted", "CLEVER score not above it"),
        (above, "bad", "CLEVER score above it"),
    ):
        if chosen.any():
            shown = f"{label} ({int(chosen.sum())})"
            axes.scatter(
                ranks[chosen], scores[chosen], s=16, marker=MARKERS[number], color=PLACEHOLDERS[role], label=shown
            )
    axes.set(yscale="log", xlabel="images, by their adversarial distance", ylabel="image range 0 to 1")
    whole_numbers(axes.xaxis)
    plain_logarithmic(axes.yaxis)
    return f"{int(above.sum())} of {len(rows)} CLEVER scores above the adversarial distance."
