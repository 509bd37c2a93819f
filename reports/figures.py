"""Figures as SVG text: drawn without a display, the same bytes for the same records."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustness_tests.harness.records import Record
from robustness_tests.harness.run import Run

COLOURS = ("#0072B2", "#D55E00")  # candidate, reference: blue and vermilion of Okabe & Ito, safe for colour-blind eyes
MARKERS = ("o", "s")
NORM_NAMES = {"linf": "L-infinity", "l2": "L2", "l1": "L1"}


def scatter(run: Run, records: Sequence[Record]) -> str | None:
    """CLEVER against adversarial distance, a panel for each norm: points above the diagonal are violations."""
    points = [
        record
        for record in records
        if record.property_name == "test_clever_below_distance"
        and record.values.get("clever")
        and record.values.get("distance")
    ]
    if not points:
        return None
    figure, panels = _panels(run)
    for norm, panel in panels.items():
        here = [record for record in points if record.about["norm"] == norm]
        for number, model in enumerate(run.models):
            _scatter_model(panel, [record for record in here if record.about["model"] == model], model, number)
        _diagonal(panel, here)
        panel.set(xscale="log", yscale="log", xlabel="adversarial distance", ylabel="CLEVER score")
        _finish(panel, norm)
    return _svg(figure)


def _scatter_model(panel: Axes, records: Sequence[Record], model: str, number: int) -> None:
    for outcome, colour, label in (
        ("passed", COLOURS[number], model),
        ("skipped", COLOURS[number], f"{model}, at the radius"),
        ("xfailed", "#CC0000", f"{model}, above the distance"),
    ):
        here = [record for record in records if record.outcome == outcome]
        if here:
            panel.scatter(
                [record.values["distance"] for record in here],
                [record.values["clever"] for record in here],
                s=16,
                marker=MARKERS[number],
                facecolors="none" if outcome == "skipped" else colour,
                edgecolors=colour,
                linewidths=0.8,
                alpha=0.75,
                label=f"{label} ({len(here)})",
            )


def _diagonal(panel: Axes, records: Sequence[Record]) -> None:
    values = [record.values[name] for record in records for name in ("distance", "clever")]
    if values:
        ends = [min(values) * 0.8, max(values) * 1.25]
        panel.plot(ends, ends, color="#666666", linewidth=1, linestyle="--", zorder=0)


def distances(run: Run, records: Sequence[Record]) -> str | None:
    """The share of images whose adversarial distance is at most x, a panel for each norm and a curve for each model."""
    found = [
        record
        for record in records
        if record.property_name == "test_adversarial_example_is_real" and "status" in record.values
    ]
    if not found:
        return None
    figure, panels = _panels(run)
    for norm, panel in panels.items():
        for number, model in enumerate(run.models):
            here = [record for record in found if (record.about["norm"], record.about["model"]) == (norm, model)]
            _curve(panel, here, model, number)
        panel.set(xlabel="adversarial distance", ylabel="share of images", ylim=(0, 1), xlim=(0, None))
        panel.grid(alpha=0.3)
        _finish(panel, norm)
    return _svg(figure)


def _curve(panel: Axes, records: Sequence[Record], model: str, number: int) -> None:
    # A censored image has no distance: it stays in the count, and the curve ends below 1.
    values = sorted(record.values["distance"] for record in records if record.values["distance"] is not None)
    if values:
        shares = [(position + 1) / len(records) for position in range(len(values))]
        style = ("-", "--")[number]
        panel.step(
            [0, *values], [0, *shares], where="post", color=COLOURS[number], linestyle=style, linewidth=1.6, label=model
        )


def brackets(run: Run, records: Sequence[Record]) -> str | None:
    """From the certified to the adversarial distance of each image, with its CLEVER score: a panel for each norm."""
    certified = [
        record
        for record in records
        if record.property_name == "test_certified_below_distance"
        and record.values.get("certified")
        and record.values.get("distance")
    ]
    if not certified:
        return None
    scores = {
        (record.about["norm"], record.about["model"], record.about["image"]): record.values.get("clever")
        for record in records
        if record.property_name == "test_clever_below_distance" and "image" in record.about
    }
    figure, panels = _panels(run)
    for norm, panel in panels.items():
        first = 0
        for number, model in enumerate(run.models):
            here = [record for record in certified if (record.about["norm"], record.about["model"]) == (norm, model)]
            here.sort(key=lambda record: float(record.values["distance"]))
            points = [scores.get((norm, model, record.about["image"])) for record in here]
            _bars(panel, here, points, first, model, number)
            first += len(here) + 2
        if first > 2 * len(run.models):
            panel.set(yscale="log")
        panel.set(xlabel="certified images, by adversarial distance", ylabel="distance", xticks=[])
        panel.grid(axis="y", alpha=0.3)
        _finish(panel, norm, below=True)
    return _svg(figure)


def _bars(
    panel: Axes, records: Sequence[Record], scores: Sequence[float | None], first: int, model: str, number: int
) -> None:
    places = range(first, first + len(records))
    low = [record.values["certified"] for record in records]
    high = [record.values["distance"] for record in records]
    exact = [
        (place, one.values["exact"]) for place, one in zip(places, records, strict=True) if one.values.get("exact")
    ]
    panel.vlines(
        places, low, high, color=COLOURS[number], linewidth=3, alpha=0.35, label=f"{model}: proved to attacked"
    )
    panel.scatter(places, low, marker="_", color=COLOURS[number], s=24)
    panel.scatter(places, high, marker="_", color=COLOURS[number], s=24)
    known = [(place, score) for place, score in zip(places, scores, strict=True) if score]
    if known:
        panel.scatter(
            [x for x, _ in known],
            [y for _, y in known],
            marker="x",
            color="#444444",
            s=14,
            linewidths=1,
            label=f"{model}: CLEVER",
        )
    if exact:
        panel.scatter(
            [x for x, _ in exact], [y for _, y in exact], marker="D", color="#009E73", s=14, label=f"{model}: exact"
        )


def _finish(panel: Axes, norm: str, *, below: bool = False) -> None:
    panel.set_title(NORM_NAMES[norm])
    if panel.get_legend_handles_labels()[0]:
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2} if below else {"loc": "lower right"}
        panel.legend(fontsize="small", **where)


def _panels(run: Run) -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(4.6 * len(run.norms), 4.0), layout="constrained")
    axes = figure.subplots(1, len(run.norms), squeeze=False)[0]
    return figure, dict(zip(run.norms, axes, strict=True))


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # Text stays text, and ids and metadata hold nothing that changes from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "robustness", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]
