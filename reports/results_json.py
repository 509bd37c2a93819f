"""results.json: everything that was measured, for programs. Written at the end of every run, red or green."""

import json
from pathlib import Path

import pytest

from reports.results import Results
from reports.summary import summarise
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import RUN, is_worker

RESULTS = pytest.StashKey[Results]()


def write_results(path: Path, results: Results) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    text = json.dumps(results.to_json(), indent=1, sort_keys=True, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file next to the report, unless no test was about a model. The other reports show the same results."""
    config = session.config
    if is_worker(config) or not config.stash[RECORDS].ours():
        return
    run = config.stash[RUN]
    results = summarise(run, config.stash[RECORDS], int(session.exitstatus))
    config.stash[RESULTS] = results
    write_results(run.results / "results.json", results)
