"""The summary in Markdown: for `--summary FILE`, and for the page of a GitHub Actions run."""

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from reports.conclusions import conclusion, worst_images
from reports.results import Results, headline
from reports.results_json import RESULTS, TROUBLES
from reports.rows import GROUPS, HEADER, Row, cells, used_columns
from robustness_tests.harness.run import RUN

SHOWN = ("property", "model", "measured", "interval", "needed", "reference", "last release", "verdict")


def summary(results: Results) -> str:
    """The verdict, what went wrong, the table of what the model has to do, and whether the numbers can be trusted."""
    parts = [f"## {literal(headline(results))}", *(f"**{literal(note)}**" for note in results.notes)]
    if bad := results.violated + results.unjudged:
        parts.append("\n".join(_failure(results, row) for row in bad))
    columns = [name for name in SHOWN if name in used_columns(results.properties)]
    for group, title in GROUPS.items():
        rows = [row for row in results.properties if row.group == group and not row.silent]
        said = conclusion(results, group)
        if rows or said:
            parts += [f"### {title}", *([literal(said)] if said else [])]
        if rows:
            shown = table(columns, [[_cell(row, name) for name in columns] for row in rows])
            # This part is long, and only needed when something is wrong.
            parts.append(
                f"<details><summary>{len(rows)} rows</summary>\n\n{shown}\n\n</details>" if group == "trust" else shown
            )
    passes = f"{results.passes['forward']:,} forward and {results.passes['backward']:,} backward passes"
    where = f", commit {results.commit[:12]}" if results.commit else ""
    parts.append(
        f"{literal(results.run['effort'])} effort, seed {results.run['seed']}, {passes}, {results.seconds:.0f} s{where}"
    )
    return "\n\n".join(parts) + "\n"


def _failure(results: Results, row: Row) -> str:
    images = ", ".join(f"{image:05d}" for image in worst_images(results, row))
    return f"- **{literal(row.title)}**: {literal(row.trouble)}" + (f". Look at {images}." if images else "")


def _cell(row: Row, name: str) -> str:
    return cells(row)[HEADER.index(name)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are shown as they are."""
    lines = [header, ["---"] * len(header), *([literal(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def literal(text: str) -> str:
    r"""Escape text for Markdown: no HTML, no links, no mentions of people.

    Example:
        >>> literal("<b> a|b *c* @me")
        '&lt;b&gt; a\\|b \\*c\\* &#64;me'
    """
    escaped = html.escape(" ".join(text.split()), quote=False)
    for sign, entity in ENTITIES.items():
        escaped = escaped.replace(sign, entity)
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", escaped)


ENTITIES = {"#": "&#35;", "@": "&#64;", "$": "&#36;", "://": "&#58;//", "www.": "www&#46;"}
"""Signs that GitHub turns into issues, mentions, formulas and links. "#" is first, as the other entities contain it."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the summary to `--summary` and to $GITHUB_STEP_SUMMARY; report it on the terminal if that fails."""
    results = session.config.stash.get(RESULTS, None)
    if results is None:
        return
    text = summary(results)
    file = session.config.stash[RUN].summary
    step = None if results.goes_on else os.environ.get("GITHUB_STEP_SUMMARY")
    for path, mode in ((file, "w"), (Path(step) if step else None, "a")):
        if path is None:
            continue
        try:
            with path.open(mode, encoding="utf-8") as page:
                page.write(text)
        except OSError as error:
            session.config.stash.setdefault(TROUBLES, []).append(f"no summary in {path}: {error.strerror}")
