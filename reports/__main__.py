"""Make the reports again from results.json, without pytest and without measuring: `python -m reports results.json`.

With two or more files, the runs are compared with the first one.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.comparison import CHANGES, Comparison, comparison
from reports.markdown import summary, table
from reports.page import CSS, TEMPLATES, page
from reports.results import load_results


def main(arguments: Sequence[str] | None = None) -> None:
    """Write HTML and Markdown; a file that is no results.json ends it with one line, and nothing is written."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__.partition("\n\n")[0])
    parser.add_argument("results", nargs="+", help="results.json of a run; of two or more, the first is the oldest")
    parser.add_argument(
        "--html", metavar="FILE", help="default: results.html, or comparison.html, beside the first file"
    )
    parser.add_argument("--summary", metavar="FILE", help="default: the same name with .md")
    given = parser.parse_args(arguments)
    paths = [Path(text) for text in given.results]
    try:
        runs = [load_results(path, text) for path, text in zip(paths, given.results, strict=True)]
    except ValueError as error:
        parser.error(str(error))
    html = Path(given.html or paths[0].with_name("results.html" if len(runs) == 1 else "comparison.html"))
    markdown = Path(given.summary or html.with_suffix(".md"))
    if len(runs) == 1:
        texts = {html: page(runs[0], given.results[0]), markdown: summary(runs[0])}
    else:
        found = comparison(runs, given.results)
        texts = {html: comparison_page(found), markdown: comparison_summary(found)}
    try:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"got {error.filename}, which cannot be written ({error.strerror}), expected a file in a folder")
    sys.stdout.write("".join(f"{path}\n" for path in texts))


def comparison_page(found: Comparison) -> str:
    """Several runs as a page."""
    return TEMPLATES.get_template("page.html").render(
        title="Comparison of runs",
        css=CSS.read_text(encoding="utf-8"),
        source="results.json of each run",
        body=TEMPLATES.get_template("comparison.html").render(found=found, header=CHANGES),
    )


def comparison_summary(found: Comparison) -> str:
    """Several runs in Markdown."""
    parts = ["## Comparison of runs", *(f"**{note}**" for note in found.notes)]
    parts += [table(("property", *found.names), found.rows)]
    parts += ["### Changes since the first run, on the same images", table(CHANGES, found.changes)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
