"""Results as HTML: the body that is put into pytest-html's report, or into a page of its own."""

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.conclusions import conclusion, worst_images
from reports.image_cards import card_link, image_cards
from reports.image_table import image_table
from reports.links import anchor, image_link
from reports.results import Results, headline
from reports.rows import GROUPS, HEADER, Row, cells, in_words, property_docs, used_columns
from robustness_tests.harness.records import BAD, Record

PLACE = Path(__file__).parent
CSS = PLACE / "report.css"
SCRIPT = PLACE / "report.js"

VERSIONS = ("robustness-gate", "torch", "python")

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PLACE / "templates"),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def page(results: Results, source: str) -> str:
    """Render a separate page; `source` names what it was made from."""
    return TEMPLATES.get_template("page.html").render(
        title=title(results),
        css=CSS.read_text(encoding="utf-8"),
        source=source,
        body=body(results, tests=True),
    )


def title(results: Results) -> str:
    """The title of the page."""
    return f"Robustness of {results.model} on {results.run['dataset']}"


def body(results: Results, *, tests: bool, tests_note: str = "") -> str:
    """Render everything below the title: with a table of tests if `tests` is true, otherwise with `tests_note`."""
    from reports.figures import figures  # noqa: PLC0415  # matplotlib and torch take long to import

    drawn = figures(results)
    columns = used_columns(results.properties)
    parts = [
        {
            "id": f"part-{group}",
            "header": _header(columns, group),
            "title": words,
            "answer": conclusion(results, group),
            "rows": _grouped([row for row in rows if not row.silent], _header(columns, group)),
            "skipped": _grouped([row for row in rows if row.silent], _header(columns, group)),
            "skipped_count": sum(row.silent for row in rows),
            "figures": [figure for figure in drawn if figure.part == group],
        }
        for group, words in GROUPS.items()
        if (rows := [row for row in results.properties if row.group == group])
    ]
    bad = results.violated + results.unjudged
    return TEMPLATES.get_template("body.html").render(
        kind=results.verdict if results.verdict in ("pass", "partial") else "fail",
        headline=headline(results),
        notes=results.notes,
        failures=[_failure(results, row) for row in bad[:MAX_FAILURES]],
        more_failures=len(bad[MAX_FAILURES:]),
        facts=list(facts(results).items()),
        parts=parts,
        confidence=f"{100 * results.thresholds['confidence']:.4g}%",
        pictures=image_cards(results),
        images=image_table(results),
        tests=[_test(record) for record in _worth_a_row(results)] if tests else None,
        tests_note=tests_note,
        script=Markup(SCRIPT.read_text(encoding="utf-8")),  # noqa: S704  # ours
    )


def _header(columns: Sequence[str], group: str) -> list[str]:
    """Columns after the property; without the model in the parts that are about the candidate only."""
    left_out = ("property", "model") if group in ("requirement", "since") else ("property",)
    return [name for name in columns if name not in left_out]


MAX_FAILURES = 8
"""Largest number of properties that the verdict band lists because they did not pass."""


def facts(results: Results) -> dict[str, str]:
    """What was run, by name."""
    run = results.run
    last = results.baseline
    minutes, seconds = divmod(round(results.seconds), 60)
    return {
        "Candidate": _named(run["sources"], results.model),
        "Reference": _named(run["sources"], results.against) if results.against else "none",
        **({"Deployed form": _named(run["sources"], run["deployed"])} if run.get("deployed") else {}),
        "Last release": f"{last['model']}, {_time(last['finished'])}, {last['file']}"
        if last
        else "none given (--baseline)",
        "Dataset": f"{_named({run['dataset']: run['dataset_source']}, run['dataset'])}, "
        f"{run['images']} of {run['test_images']:,} images",
        **{f"Stated by RobustBench, {name}": stated for name, stated in run.get("leaderboard", {}).items()},
        **({"Pictures": run["image_size"]} if run.get("image_size") else {}),
        "Norms": ", ".join(results.norms),
        "Effort": f"{run['effort']}: not for a release" if results.quick else run["effort"],
        "CLEVER's radius": ", ".join(f"{norm} {run['clever_radius'][norm]:g}" for norm in results.norms),
        "Seed": str(run["seed"]),
        "Thresholds": ", ".join(results.thresholds["files"]),
        "Passes": f"{results.passes['forward']:,} forward, {results.passes['backward']:,} backward",
        "Measurements": f"{results.measurements['measured']:,} made in this run, "
        f"{results.measurements['stored']:,} read from the store",
        "Device": run["device"],
        # Files of earlier releases have no precision.
        "Attacks search in": run.get("precision", "float32"),
        "Time": f"{minutes} min {seconds} s, until {_time(results.finished)}",
        "Commit": f"{results.commit[:12]}{'+' * results.commit.endswith('+')}" if results.commit else "not in git",
        "Versions": ", ".join(f"{name} {results.versions[name]}" for name in VERSIONS if results.versions.get(name)),
    }


def _time(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")


def _named(sources: Any, name: str) -> str:
    """A name, with its source if that is another text."""
    return name if sources[name] == name else f"{name} ({sources[name]})"


def _anchor_of(row: Row) -> str:
    return anchor(f"{row.property_name} {row.norm} {row.epsilon} {row.model}", "property")


def _grouped(rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one property under one heading."""
    docs = property_docs()
    return [
        {
            "title": in_words(name),
            "claim": docs[name].claim if name in docs else "",
            "rows": [_property(row, columns) for row in some],
        }
        for name, some in itertools.groupby(rows, key=lambda row: row.property_name)
    ]


def _property(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    texts = dict(zip(HEADER, cells(row), strict=True))
    links = [{"href": f"#{anchor(test, 'test')}", "title": test, "text": "test"} for test in row.tests[:3]]
    if row.norm:
        href = image_link(model=row.model, norm=row.norm, sort="adversarial distance")
        links.append({"href": href, "title": "rows of these images", "text": "images"})
    return {
        "anchor": _anchor_of(row),
        "where": row.where or "all",
        "cells": [(name, texts[name]) for name in columns if name != "verdict"],
        "outcome": row.outcome,
        "message": row.message,
        "links": links,
    }


def _failure(results: Results, row: Row) -> dict[str, Any]:
    images = worst_images(results, row)
    return {
        "anchor": _anchor_of(row),
        "title": row.title,
        "message": row.trouble,
        "images_word": "image" if len(images) == 1 else "images",
        "images": [
            {"text": f"{image:05d}", "href": card_link(results, row.model, image, row.norm)} for image in images
        ],
    }


MAX_ROWS = 300
"""Largest number of rows for tests about images that went wrong: more would make the page slow."""


def _worth_a_row(results: Results) -> list[Record]:
    """Tests about models, and tests about images that went wrong; the table of images has the others."""
    found = [record for record in results.records if "image" not in record.about or record.outcome in BAD]
    of_models = [record for record in found if "image" not in record.about]
    of_images = [record for record in found if "image" in record.about]
    return sorted([*of_models, *of_images[:MAX_ROWS]], key=lambda record: record.outcome not in BAD)


def _test(record: Record) -> dict[str, Any]:
    return {
        "anchor": anchor(record.test, "test"),
        "outcome": record.outcome,
        "name": record.test,
        "message": record.message,
        "seconds": record.seconds,
    }
