"""The summary of the terminal: the same table as in the report."""

from collections.abc import Sequence

import pytest

from reports.summary import HEADER, Summary, cells, headline, summarise
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import RUN


def table(summary: Summary) -> list[str]:
    """The rows as lines of text, in columns."""
    lines = [HEADER, *(cells(row) for row in summary.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return [_line(line, widths) for line in lines]


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Write table and verdict."""
    records, run = config.stash[RECORDS], config.stash[RUN]
    if not records.ours():
        return
    summary = summarise(run, records, int(exitstatus))
    terminalreporter.write_sep("=", "robustness")
    for line in table(summary):
        terminalreporter.write_line(line)
    terminalreporter.write_line("")
    if summary.measured or summary.stored:
        terminalreporter.write_line(
            f"these numbers cost {summary.forward:,} forward and {summary.backward:,} backward passes "
            f"({summary.measured:,} measured in this run, {summary.stored:,} in earlier ones)"
        )
    for note in summary.notes:
        terminalreporter.write_line(note, yellow=True)
    colour = {"pass": "green", "partial": "yellow"}.get(summary.verdict, "red")
    terminalreporter.write_line(headline(run, summary), bold=True, **{colour: True})
    terminalreporter.write_line(f"records: {run.results / 'results.json'}")
