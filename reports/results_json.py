"""results.json: everything that was measured, for programs. Written at the end of every run, red or green."""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from reports.summary import Summary, summarise
from robustness_tests.harness.records import RECORDS, Records
from robustness_tests.harness.run import RUN, Run, is_worker
from robustness_tests.harness.values import plain

SCHEMA = 1
"""Raised when a field is removed or changes its meaning; a new field does not raise it."""

FOLDERS = ("results", "data_dir")
"""Of the machine, and nothing that a number depends on."""

SOURCES = ("sources", "dataset_source")

PACKAGES = ("robustness-gate", "torch", "torchvision", "numpy", "scipy", "pytest", "pytest-xdist", "hypothesis")


def results(run: Run, records: Records, summary: Summary) -> dict[str, Any]:
    """The content of the file: plain values only; what is infinite or not a number is null."""
    options = {name: value for name, value in vars(run).items() if name not in (*FOLDERS, *SOURCES, "thresholds")}
    options["sources"] = {name: source.text for name, source in run.sources.items()}
    options["dataset_source"] = run.dataset_source.text
    return plain(
        {
            "schema": SCHEMA,
            "verdict": summary.verdict,
            "exit_status": summary.exit_status,
            "notes": summary.notes,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": options,
            "thresholds": {**vars(run.thresholds)},
            "versions": versions(),
            "tests": {
                "collected": records.collected,
                "deselected": records.deselected,
                "missing": records.missing,
            },
            "passes": {"forward": summary.forward, "backward": summary.backward},
            "measurements": {"measured": summary.measured, "stored": summary.stored},
            "properties": [asdict(row) for row in summary.rows],
            "records": [asdict(record) for record in sorted(records.ours(), key=lambda record: record.test)],
        }
    )


def versions() -> dict[str, str | None]:
    """Versions of Python, of the platform, and of the packages that numbers depend on; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the file next to the report, unless no test was about a model."""
    config = session.config
    if is_worker(config) or not config.stash[RECORDS].ours():
        return
    run, records = config.stash[RUN], config.stash[RECORDS]
    content = results(run, records, summarise(run, records, int(session.exitstatus)))
    write_results(run.results / "results.json", content)
