"""The HTML report: that of pytest-html, with the robustness results above its table of tests."""

from collections.abc import Generator
from html import escape
from typing import Any

import pytest

from reports.links import anchor
from reports.page import CSS, MAX_ROWS, body
from reports.results_json import RESULTS, TROUBLES, not_written
from robustness_tests.harness.measured import ABOUT
from robustness_tests.harness.records import BAD, RECORDS, Records
from robustness_tests.harness.run import IN_USE, RUN, is_worker

COLUMNS = {"model": "Model", "norm": "Norm", "why": "Why"}
UNASKED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Write the report by default; `--html` still sets its path."""
    if is_worker(config) or not config.stash[IN_USE]:
        return
    if config.option.collectonly or config.stash[RUN].shard or not config.pluginmanager.hasplugin("html"):
        return
    config.option.self_contained_html = True
    if not config.option.htmlpath:
        config.stash[UNASKED] = True
        config.option.htmlpath = str(config.stash[RUN].results / "report.html")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Extend the report of pytest-html, if that plugin is active."""
    config = session.config
    if not is_worker(config) and config.stash[IN_USE] and config.pluginmanager.hasplugin("html"):
        config.pluginmanager.register(Rows(config), "robustness-html-rows")


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the report of the last run if no test was about a model, unless `--html` was given."""
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
        self.bad_images = 0

    def pytest_html_report_title(self, report: Any) -> None:
        """Set the title, and keep the report to count rows that are left out."""
        run = self.config.stash[RUN]
        self.report_data = report
        if report.data["renderCollapsed"] == ["passed"]:  # the default
            report.data["renderCollapsed"] = ["passed", "skipped", "xfailed"]
        report.title = f"Robustness of {run.model} on {run.dataset}"

    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Add our columns after the name of the test."""
        for column, (name, title) in enumerate(COLUMNS.items(), start=2):
            cells.insert(column, f'<th class="sortable" data-column-type="{name}">{title}</th>')
        del cells[-1]

    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        """Fill our columns, or leave the row out: pytest-html redraws all rows on each click."""
        about = {name: value for name, value in getattr(report, "user_properties", ()) if name in ABOUT}
        outcome = _shown_as(report)
        if outcome and "image" in about and not self._worth_a_row(outcome):
            self.report_data.outcomes[outcome]["value"] += 1
            del cells[:]
            return
        record = self.config.stash[RECORDS].by_test.get(report.nodeid)
        values = {**about, "why": record.message if record else ""}
        # pytest-html writes it as HTML, and a name may hold some.
        name = report.nodeid if report.when == "call" else f"{report.nodeid}::{report.when}"
        cells[1] = f'<td class="col-testId" id="{anchor(report.nodeid, "test")}">{escape(name)}</td>'
        for column, name in enumerate(COLUMNS, start=2):
            cells.insert(column, f'<td class="col-{name}">{escape(str(values.get(name, "")))}</td>')
        del cells[-1]

    def _worth_a_row(self, outcome: str) -> bool:
        bad = outcome in BAD
        self.bad_images += bad
        return bad and self.bad_images <= MAX_ROWS

    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        """Put the rest of the report above the table of tests."""
        results = self.config.stash.get(RESULTS, None)
        if results is None:
            return
        prefix.append(f"<style>{CSS.read_text(encoding='utf-8')}</style>")
        try:
            prefix.append(body(results, tests=False, tests_note=_note(self.config.stash[RECORDS])))
        except Exception as error:  # noqa: BLE001  # odd values from a user must not lose the verdict and the rows
            trouble = f"report.html is not whole: {type(error).__name__}: {error}"
            prefix.append(f"<p>{escape(trouble)}</p>")
            self.config.stash.setdefault(TROUBLES, []).append(trouble)


@pytest.hookimpl(wrapper=True, trylast=True)  # inside of the terminal's own wrapper, which shows the verdict
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """A report that cannot be written, for lack of space, must not lose the verdict on the terminal."""
    try:
        return (yield)
    except OSError as error:
        not_written(session, f"a report is not whole: {error.strerror or error}")
        return None


def _shown_as(report: Any) -> str | None:
    """The outcome that pytest-html counts a report as; None if it neither counts nor shows the report."""
    if report.outcome == "skipped" and hasattr(report, "wasxfail"):
        return "xfailed"
    if report.when == "call" or report.outcome == "skipped":
        return str(report.outcome)
    return "error" if report.outcome == "failed" else None


def _note(records: Records) -> str:
    count = len(records.by_test)
    return (
        f"All {count:,} tests are counted below, including skipped tests and expected failures. Tests about models "
        "have rows, and tests that went wrong have rows with a traceback. The other tests about images have no rows: "
        "see the table of images."
    )
