"""Draw a panel as SVG text, without a display; the same numbers give the same bytes."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

PLACEHOLDERS = {
    "ink": "#010101",
    "grid": "#020202",
    "candidate": "#030303",
    "reference": "#040404",
    "baseline": "#050505",
    "bad": "#060606",
    "exact": "#070707",
    "muted": "#080808",
}
"""Colours by role, as drawn. In the SVG they become variables of report.css, which has a light and a dark value."""

ROLES = ("candidate", "reference")
"""Roles of the models of a run, in order; each has its own colour, marker and line style."""

MARKERS = ("o", "s")
LINES = ("-", "--")

NORM_NAMES = {"linf": "L-infinity", "l2": "L2", "l1": "L1"}

SIZE = (4.6, 3.7)

MANY = 500
"""With more points than this, a panel is rasterized: browsers are slow with thousands of SVG elements."""

LONG = 26
"""Length of the longest label, in characters, with which a legend still has two columns."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robustness",
    "font.family": "sans-serif",
    # A model may have a dollar in its name.
    "text.parse_math": False,
    "text.color": PLACEHOLDERS["ink"],
    "axes.labelcolor": PLACEHOLDERS["ink"],
    "axes.edgecolor": PLACEHOLDERS["muted"],
    "axes.titlesize": "medium",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PLACEHOLDERS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": PLACEHOLDERS["ink"],
    "ytick.color": PLACEHOLDERS["ink"],
    "legend.frameon": False,
    "legend.fontsize": "small",
}


@dataclass(frozen=True)
class Panel:
    """A drawn panel.

    Attributes:
        svg: an element of SVG, to be put into a page.
        text: what it shows, with numbers: its text alternative.
    """

    svg: str
    text: str


def panel(title: str, draw: Callable[[Axes], str]) -> Panel:
    """Draw a panel: `draw` draws into the axes and returns the text alternative."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        text = draw(axes)
        axes.set_title(title)
        labels = axes.get_legend_handles_labels()[1]
        if labels:
            figure.legend(loc="outside lower center", ncols=2 if max(map(len, labels)) <= LONG else 1)
        file = io.StringIO()
        # Nothing in it changes from run to run.
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True, dpi=150)
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    return Panel(_for_page(svg), f"{title}: {text}")


def column(rows: Sequence[object], name: str) -> NDArray[np.float64]:
    """An attribute of all rows; NaN where there is none."""
    return np.array([getattr(row, name) for row in rows], dtype=float)


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))


def plain_logarithmic(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers such as 0.05, not powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _for_page(svg: str) -> str:
    for role, colour in PLACEHOLDERS.items():
        svg = svg.replace(colour, f"var(--{role})")
    # Remove the ids of groups, which would repeat in every figure. Ids that are referred to are on other elements.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg[^>]*?) height="[^"]*"', _sized, svg, count=1)


def _sized(found: re.Match[str]) -> str:
    """Remove the fixed size, so that the SVG is as wide as its container."""
    return re.sub(r' (width|height)="[^"]*"', "", found.group(0))


def colour(number: int) -> str:
    """The colour of the first or second model of a run."""
    return PLACEHOLDERS[ROLES[number]]


def short(name: str, longest: int = 34) -> str:
    """Shorten a name for a legend; put a space before an underscore, as matplotlib hides labels that start with one."""
    name = f" {name}" if name.startswith("_") else name
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def rasterized(count: int) -> bool:
    """Whether so many points are drawn as one picture."""
    return count > MANY
