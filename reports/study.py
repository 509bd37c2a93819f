"""Compare the claims of the study that the suite starts from with a run: `python -m reports.study FILE`.

Writes a Markdown page, and its figures as SVG files in a folder beside it.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.figures import distances, scores
from reports.figures.panel import Panel
from reports.figures.ranked import ranked
from reports.images import ImageRow
from reports.markdown import literal, table
from reports.page import CSS, TEMPLATES, VERSIONS
from reports.results import DAMAGED, Results, load_results


@dataclass(frozen=True)
class Claim:
    """A number from the study, its follow-up and a run; the candidate or corruption-trained model comes first.

    Attributes:
        what: the number, in words.
        study: value in the study of 2023, in L-infinity, on 1,000 or 10,000 images.
        follow_up: value in the follow-up, with stronger attacks and another recipe, on 500 images.
        here: value in the run.
    """

    what: str
    study: str
    follow_up: str
    here: str


PUBLISHED = {
    "images with CLEVER <= adversarial distance, linf": ("86 %, one number for both", "46 % / 89 %"),
    "images with CLEVER <= adversarial distance, l2": ("", "83 % / 85 %"),
    "the same, CLEVER as published, linf": ("86 %, one number for both", "46 % / 89 %"),
    "the same, CLEVER as published, l2": ("", "83 % / 85 %"),
    "median adversarial distance, linf": ("0.0068 / 0.0056 = 1.2", "0.0090 / 0.0045 = 2.0"),
    "median adversarial distance, l2": ("", "0.286 / 0.121 = 2.4"),
    "median CLEVER score, linf": ("", "0.0108 / 0.0022"),
    "median CLEVER score, l2": ("", "0.0089 / 0.0590"),
    "robust accuracy at 1/255, linf": ("75.2 % / 65.4 %", ""),
    "robust accuracy at 2/255, linf": ("40.2 % / 33.2 %", ""),
}
"""Recomputed from the per-image values that the authors published: over the correctly classified images, but over all
images for robust accuracies."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its figures; for bad input, print a one-line error."""
    parser = argparse.ArgumentParser(prog="python -m reports.study", description=__doc__.partition("\n\n")[0])
    parser.add_argument("results", help="results.json of a run with two models")
    parser.add_argument("--output", metavar="FILE", help="default: study.md beside it; figures go to a folder study/")
    given = parser.parse_args(arguments)
    path = Path(given.results)
    try:
        results = load_results(path, given.results)
    except ValueError as error:
        parser.error(str(error))
    if results.against is None:
        parser.error(f"got {given.results!r}, a run of one model, expected one with a reference (--against)")
    page = Path(given.output or path.with_name("study.md"))
    if page.suffix != ".md":
        parser.error(f"got --output {given.output!r}, expected a file .md")
    folder = page.with_suffix("")
    try:
        drawn = figures(results)
        text = rendered(results, folder.name, drawn)
    except DAMAGED as error:
        parser.error(
            f"got a results.json that is damaged ({type(error).__name__}: {error}), expected one of this suite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, panel in drawn.items():
            (folder / name).write_text(standalone(panel.svg), encoding="utf-8")
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"got {error.filename}, which cannot be written ({error.strerror}), expected a folder to write to")
    sys.stdout.write(f"{page}\n")


def figures(results: Results) -> dict[str, Panel]:
    """The panels by the names of their files, in the order of the page."""
    drawn = {"sorted": ranked(results), "scatter": scores.scatter(results), "share": distances.distribution(results)}
    return {f"{kind}-{number}.svg": panel for kind, panels in drawn.items() for number, panel in enumerate(panels, 1)}


def rendered(results: Results, folder: str, drawn: Mapping[str, Panel]) -> str:
    """The page, whose figures are files in a folder beside it."""
    header = ("number", "study", "follow-up", "here")
    rows = [(claim.what, claim.study, claim.follow_up, claim.here) for claim in claims(results)]
    run = results.run
    page = (
        TEMPLATES.overlay(autoescape=False)
        .get_template("study.md")
        .render(
            models=[literal(model) for model in results.models],
            dataset=literal(str(run["dataset"])),
            images=run["images"],
            effort=run["effort"],
            finished=results.finished[:10],
            versions={name: results.versions.get(name) for name in VERSIONS},
            claims=table(header, rows),
            folder=folder,
            figures={
                kind: [(name, panel.text) for name, panel in drawn.items() if name.startswith(kind)]
                for kind in ("sorted", "scatter", "share")
            },
        )
    )
    return f"{page}\n"


def claims(results: Results) -> list[Claim]:
    """The published numbers beside those of a run."""
    return [
        Claim(f"{what}, {norm}", *PUBLISHED.get(f"{what}, {norm}", ("", "")), here)
        for norm in results.norms
        for what, here in _measured(results, norm).items()
    ]


def _measured(results: Results, norm: str) -> dict[str, str]:
    ours, theirs = (results.of(model, norm) for model in results.models)
    sides = [[row for row in rows if row.status != "misclassified"] for rows in (ours, theirs)]
    both = {row.image for row in sides[0]} & {row.image for row in sides[1]}
    paired = [[row for row in rows if row.image in both] for rows in sides]
    measured = {
        "images with CLEVER <= adversarial distance": " / ".join(_below(rows) for rows in sides),
        "the same, CLEVER as published": " / ".join(_published(results, model, norm) for model in results.models),
        "median of CLEVER / adversarial distance": " / ".join(_ratio(rows) for rows in sides),
        "median adversarial distance": _medians(*([row.reach for row in rows] for rows in paired)),
        "median CLEVER score": _medians(*([row.clever for row in rows] for rows in paired)),
    }
    if norm == "linf":
        for levels in (1, 2):
            shares = (sum((row.reach or 0.0) > levels / 255 for row in rows) / len(rows) for rows in (ours, theirs))
            measured[f"robust accuracy at {levels}/255"] = " / ".join(f"{share:.1%}" for share in shares)
    return measured


def _below(rows: Sequence[ImageRow]) -> str:
    judged = [row.clever_verdict == "passed" for row in rows if row.clever_verdict in ("passed", "xfailed")]
    return f"{sum(judged) / len(judged):.1%} of {len(judged)}" if judged else "none judged"


def _published(results: Results, model: str, norm: str) -> str:
    shares = [
        row
        for row in results.properties
        if row.feeds == "published_clever_share" and (row.model, row.norm) == (model, norm) and row.value is not None
    ]
    return f"{shares[0].value:.1%} of {shares[0].images}" if shares else "not measured"


def _ratio(rows: Sequence[ImageRow]) -> str:
    ratios = [row.ratio for row in rows if row.ratio is not None]
    return f"{statistics.median(ratios):.2f}" if ratios else "none"


def _medians(ours: Sequence[float | None], theirs: Sequence[float | None]) -> str:
    pairs = [pair for pair in zip(ours, theirs, strict=True) if None not in pair]
    if not pairs:
        return "none"
    first, second = (statistics.median(float(value or 0.0) for value in side) for side in zip(*pairs, strict=True))
    return f"{first:.4g} / {second:.4g} = {first / second:.1f}" if second else f"{first:.4g} / {second:.4g}"


def standalone(svg: str) -> str:
    """Add the light and dark colours of the report to a panel, so that it can be a file of its own."""
    css = CSS.read_text(encoding="utf-8")
    light, _, dark = css.partition("prefers-color-scheme: dark")
    rules = [f"svg {{ {' '.join(_colours(part))} }}" for part in (light, dark)]
    style = f"<style>{rules[0]} @media (prefers-color-scheme: dark) {{ {rules[1]} }}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda found: found[1] + style, svg, count=1)


def _colours(css: str) -> list[str]:
    found: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+): (#\w+);", css):
        found.setdefault(name, value)
    return [f"--{name}: {value};" for name, value in found.items()]


if __name__ == "__main__":
    main()
