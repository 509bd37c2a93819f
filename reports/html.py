"""The HTML report: pytest-html's, with verdict, table and figures on top and columns for model, norm and image."""

from collections.abc import Generator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest

from reports.results_json import versions
from reports.summary import HEADER, Summary, cells, headline, summarise
from robustness_tests.harness.options import named, named_dataset
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import IN_USE, RUN, Run, is_worker

VERSIONS = ("robustness-gate", "torch", "python")
MANY_ROWS = 300
"""Above so many tests, passed ones about single images are left out of the rows: pytest-html redraws all rows on each
click, which takes seconds for thousands."""

COLUMNS = {
    "model": "Model",
    "norm": "Norm",
    "image": "Image",
    "distance": "Distance",
    "certified": "Certified",
    "clever": "CLEVER",
}
UNASKED = pytest.StashKey[bool]()
CSS = Path(__file__).with_name("report.css")


def pytest_configure(config: pytest.Config) -> None:
    """Make the report without being asked; `--html` still says where."""
    if is_worker(config) or not config.stash[IN_USE]:
        return
    if config.option.collectonly or not config.pluginmanager.hasplugin("html"):
        return
    config.option.self_contained_html = True
    if not config.option.htmlpath:
        config.stash[UNASKED] = True
        config.option.htmlpath = str(config.stash[RUN].results / "report.html")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Hook into pytest-html, in the process that writes."""
    config = session.config
    if not is_worker(config) and config.stash[IN_USE] and config.pluginmanager.hasplugin("html"):
        config.pluginmanager.register(Rows(config), "robustness-html-rows")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Write no report when no test was about a model, unless `--html` asks for one: the last good one stays."""
    try:
        return (yield)
    finally:
        config = session.config
        if config.stash.get(UNASKED, False) and not config.stash[RECORDS].ours():
            _drop_report(config)


def _drop_report(config: pytest.Config) -> None:
    from pytest_html.basereport import BaseReport  # noqa: PLC0415  # there may be no pytest-html: -p no:html

    for plugin in list(config.pluginmanager.get_plugins()):
        if isinstance(plugin, BaseReport):
            config.pluginmanager.unregister(plugin)


class Rows:
    """The hooks of pytest-html."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.report_data: Any = None

    def pytest_html_report_title(self, report: Any) -> None:
        """Name the subject in the title, and keep the counts for rows that are left out."""
        run = self.config.stash[RUN]
        self.report_data = report
        report.title = f"Robustness of {run.model} on {run.dataset}"

    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Add our columns after the name of the test."""
        for place, (name, title) in enumerate(COLUMNS.items(), start=2):
            cells.insert(place, f'<th class="sortable" data-column-type="{name}">{title}</th>')
        del cells[-1]

    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Fill our columns, or leave the row out."""
        values = dict(report.user_properties) if hasattr(report, "user_properties") else {}
        if report.when == "call" and report.passed and "image" in values and self._many():
            self.report_data.outcomes["passed"]["value"] += 1
            del cells[:]
            return
        for place, name in enumerate(COLUMNS, start=2):
            cells.insert(place, f'<td class="col-{name}">{escape(fixed_width(values.get(name)))}</td>')
        del cells[-1]

    def pytest_html_results_summary(self, prefix: list[str], session: pytest.Session) -> None:
        """Put verdict, table and figures on top."""
        records = self.config.stash[RECORDS]
        if not records.ours():
            return
        run = self.config.stash[RUN]
        summary = summarise(run, records, int(session.exitstatus))
        prefix.append(f"<style>{CSS.read_text(encoding='utf-8')}</style>")
        prefix.append(verdict(run, summary))
        prefix.append(table(summary))
        from reports import figures  # noqa: PLC0415  # matplotlib takes long to import, and only a report needs it

        drawn = [
            ("CLEVER against adversarial distance", CLEVER_CAPTION, figures.scatter(run, records.ours())),
            ("Proved and attacked", BRACKETS_CAPTION, figures.brackets(run, records.ours())),
            ("Adversarial distances", DISTANCES_CAPTION, figures.distances(run, records.ours())),
        ]
        prefix.extend(figure(title, caption, svg) for title, caption, svg in drawn if svg)
        if self._many():
            prefix.append(
                "<p>Passed tests about single images are counted below and left out of the rows; "
                "every one is in results.json.</p>"
            )

    def _many(self) -> bool:
        return self.config.stash[RECORDS].collected > MANY_ROWS


CLEVER_CAPTION = (
    "One point for each image. CLEVER estimates a lower bound of the distance, without proof, and an attack gives an "
    "upper one, so a point above the dashed diagonal is a wrong score. The further below, the less a score says."
)
BRACKETS_CAPTION = (
    "One bar for each certified image. No perturbation below its lower end changes the label, which is proved, and one "
    "at its upper end does: the true distance is in between. A CLEVER score above the bar is wrong, one below it is "
    "useless. Long bars say that the bounds are loose for this architecture, not that the model is weak."
)
DISTANCES_CAPTION = (
    "Share of images whose label an attack can change within a distance. The lower curve is the more robust model; "
    "it starts at the share of misclassified images and ends below 1 where attacks found nothing."
)


def fixed_width(value: object) -> str:
    """A value as text that sorts as the value does: pytest-html sorts columns as text."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int):
        return f"{value:05d}"
    # A browser draws no leading blanks; the text that is sorted has them.
    return f"{value:9.4f}" if isinstance(value, float) else str(value)


def verdict(run: Run, summary: Summary) -> str:
    """The verdict, what was run, and what a reader has to know before believing it."""
    facts = {
        "Candidate": named(run, run.model),
        "Reference": "none" if run.against == run.model else named(run, run.against),
        "Dataset": f"{named_dataset(run)}, {run.images} of {run.test_images:,} images",
        "Norms": ", ".join(run.norms),
        "Effort": run.effort,
        "CLEVER's radius": ", ".join(f"{norm} {run.clever_radius[norm]:g}" for norm in run.norms),
        "Seed": str(run.seed),
        "Thresholds": ", ".join(run.thresholds.files),
        "Passes": f"{summary.forward:,} forward, {summary.backward:,} backward",
        "Measurements": f"{summary.measured:,} made in this run, {summary.stored:,} in earlier ones",
        "Device": run.device,
        "Finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Versions": ", ".join(f"{name} {found}" for name, found in versions().items() if found and name in VERSIONS),
    }
    notes = "".join(f'<p class="robustness-note">{escape(note)}</p>' for note in summary.notes)
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items())
    kind = summary.verdict if summary.verdict in ("pass", "partial") else "fail"
    return (
        f'<div class="robustness-verdict robustness-{kind}"><h2>{escape(headline(run, summary))}</h2>'
        f"{notes}<dl>{items}</dl></div>"
    )


def table(summary: Summary) -> str:
    """One row for each property, model and norm."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in HEADER)
    body = ""
    for row in summary.rows:
        texts = "".join(f"<td>{escape(text)}</td>" for text in cells(row)[:-1])
        why = f'<div class="robustness-why">{escape(row.message)}</div>' if row.message else ""
        body += f'<tr class="robustness-{escape(row.outcome)}">{texts}<td><b>{escape(row.outcome)}</b>{why}</td></tr>'
    return f'<table class="robustness-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def figure(title: str, caption: str, svg: str) -> str:
    """A figure with its caption, which is also its text alternative."""
    text = escape(caption)
    image = svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f'<figure class="robustness-figure"><h3>{escape(title)}</h3>{image}<figcaption>{text}</figcaption></figure>'
