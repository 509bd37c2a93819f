"""Write results.json, with everything that was measured, at the end of every run, passed or failed."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path

import pytest

from reports.results import Results
from reports.summary import summarise
from robustness_tests.harness.records import RECORDS
from robustness_tests.harness.run import RUN, is_worker

RESULTS = pytest.StashKey[Results]()
TROUBLES = pytest.StashKey[list[str]]()
"""Problems with writing reports, shown on the terminal; they do not affect the verdict."""


def write_results(path: Path, results: Results) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    text = json.dumps(results.to_json(), indent=1, sort_keys=True, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Write results.json before the other reports, which show the same results; not if no test was about a model."""
    config = session.config
    if not is_worker(config) and not config.stash[RUN].shard and config.stash[RECORDS].ours():
        run = config.stash[RUN]
        config.stash[RESULTS] = summarise(run, config.stash[RECORDS], int(session.exitstatus))
        path = run.results / "results.json"
        try:
            write_results(path, config.stash[RESULTS])
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # that of an earlier run would be taken for this one's
            not_written(session, f"no {path}: {error.strerror}")
    return (yield)


def not_written(session: pytest.Session, trouble: str) -> None:
    """Say on the terminal which file of the run is missing, and end with another exit status than 0 or 1."""
    session.config.stash.setdefault(TROUBLES, []).append(f"{trouble}. The exit status is 3.")
    session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
