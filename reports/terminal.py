"""The summary of the terminal: the same table as in the report."""

from collections.abc import Sequence

import pytest

from reports.results import Results, headline
from reports.results_json import RESULTS, TROUBLES
from reports.rows import HEADER, cells, used_columns
from robustness_tests.harness.run import RUN


def table(results: Results) -> list[str]:
    """The rows as lines of text in aligned columns, without columns that are empty in every row."""
    lines = [HEADER, *(cells(row) for row in results.properties)]
    used = [HEADER.index(name) for name in used_columns(results.properties)]
    widths = [max(len(line[column]) for line in lines) for column in used]
    return [_line([line[column] for column in used], widths) for line in lines]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write table and verdict."""
    results, run = config.stash.get(RESULTS, None), config.stash[RUN]
    if results is None:
        return
    terminalreporter.write_sep("=", "robustness")
    for line in table(results):
        terminalreporter.write_line(line)
    terminalreporter.write_line("")
    passes, made = results.passes, results.measurements
    if made["measured"] or made["stored"]:
        terminalreporter.write_line(
            f"these numbers cost {passes['forward']:,} forward and {passes['backward']:,} backward passes "
            f"({made['measured']:,} measured in this run, {made['stored']:,} in earlier ones)"
        )
    if results.violated:
        terminalreporter.write_line(f"Violated: {'; '.join(row.title for row in results.violated)}.", yellow=True)
    if results.unjudged:
        titles = "; ".join(row.title for row in results.unjudged)
        terminalreporter.write_line(f"Could not be tested, because of errors: {titles}.", yellow=True)
    for note in results.notes:
        terminalreporter.write_line(note, yellow=True)
    for trouble in config.stash.get(TROUBLES, []):
        terminalreporter.write_line(trouble, red=True)
    colour = {"pass": "green", "partial": "yellow"}.get(results.verdict, "red")
    terminalreporter.write_line(headline(results), bold=True, **{colour: True})
    records = run.results / "results.json"
    if records.is_file():
        terminalreporter.write_line(f"records: {records}")
