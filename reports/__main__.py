"""Recreate the reports from results.json, without running pytest: `python -m reports results.json`.

With two or more files, compare the runs with the first one.
`python -m reports mlflow results.json` logs a run to MLflow.
`python -m reports store FOLDER` shows what is stored, and clears it.
`python -m reports merge FOLDER...` puts what shards have measured into one store.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.comparison import CHANGES, RunComparison, comparison
from reports.markdown import literal, summary, table
from reports.merge import main as merge_shards
from reports.mlflow import main as log_to_mlflow
from reports.page import CSS, TEMPLATES, page
from reports.results import DAMAGED, Results, load_results
from reports.stored import main as show_store

COMMANDS = {"merge": merge_shards, "mlflow": log_to_mlflow, "store": show_store}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write HTML and Markdown. For a file that is not a results.json, print a one-line error and write nothing."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, command in COMMANDS.items():
        if arguments[:1] == [name]:
            command(arguments[1:])
            return
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__.partition("\n\n")[0])
    parser.add_argument("results", nargs="+", help="results.json of a run; further ones are compared with the first")
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
    markdown = Path(given.summary or html.parent / f"{html.stem or 'results'}.md")
    for path in (html, markdown):
        if path.resolve() in {read.resolve() for read in paths}:
            parser.error(f"got {path} to write, which is one of the files to read, expected another one")
    if html.resolve() == markdown.resolve():
        parser.error(f"got {html} for HTML and for the summary, expected two files")
    try:
        texts = dict(zip((html, markdown), drawn(runs, given.results), strict=True))
    except DAMAGED as error:
        parser.error(
            f"got a results.json that is damaged ({type(error).__name__}: {error}), expected one of this suite"
        )
    try:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        parser.error(f"got {error.filename}, which cannot be written ({error.strerror}), expected a file in a folder")
    sys.stdout.write("".join(f"{path}\n" for path in texts))


def drawn(runs: Sequence[Results], files: Sequence[str]) -> tuple[str, str]:
    """HTML and Markdown of one run, or of a comparison."""
    if len(runs) == 1:
        return page(runs[0], files[0]), summary(runs[0])
    found = comparison(runs, files)
    return comparison_page(found), comparison_summary(found)


def comparison_page(found: RunComparison) -> str:
    """Several runs as a page."""
    return TEMPLATES.get_template("page.html").render(
        title="Comparison of runs",
        css=CSS.read_text(encoding="utf-8"),
        source="results.json of each run",
        body=TEMPLATES.get_template("comparison.html").render(found=found, header=CHANGES),
    )


def comparison_summary(found: RunComparison) -> str:
    """Several runs in Markdown."""
    parts = ["## Comparison of runs", *(f"**{literal(note)}**" for note in found.notes)]
    parts += [table(("property", *found.names), found.rows)]
    parts += ["### Changes since the first run, on the same images", table(CHANGES, found.changes)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
