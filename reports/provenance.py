"""Where the numbers of a run come from: options, versions, commit, and the last release they are compared with."""

import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from robustness_tests.harness.baseline import Baseline
from robustness_tests.harness.run import Run

OF_THE_MACHINE = ("results", "store", "data_dir", "summary", "shard")
"""Options that do not affect any number."""

ELSEWHERE = ("sources", "dataset_source", "thresholds", "baseline")
"""Options that results.json stores in another form or place."""

PACKAGES = ("robustness-gate", "torch", "torchvision", "numpy", "scipy", "pytest", "pytest-xdist", "hypothesis")


def described(run: Run) -> dict[str, Any]:
    """The options of a run by name, without paths of this machine."""
    options = {name: value for name, value in vars(run).items() if name not in (*OF_THE_MACHINE, *ELSEWHERE)}
    options["sources"] = {name: source.text for name, source in run.sources.items()}
    options["image_size"] = None if run.image_size is None else str(run.image_size)
    options["looks"] = None if run.looks is None else asdict(run.looks)
    options["leaderboard"] = {name: str(stated) for name, stated in run.leaderboard.items()}
    options["dataset_source"] = run.dataset_source.text
    return options


def versions() -> dict[str, str | None]:
    """Versions of Python, of the platform, and of the packages that numbers depend on; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """The commit of the current folder, with "+" if tracked files have changed; without git, $GITHUB_SHA or None."""
    stated = os.environ.get("GITHUB_SHA")
    git = shutil.which("git")
    if not git:
        return stated
    found = _git(git, "rev-parse", "HEAD")
    if found is None:
        return stated
    return f"{found}+" if _git(git, "status", "--porcelain", "--untracked-files=no") else found


def _git(program: str, *arguments: str) -> str | None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def last_release(baseline: Baseline | None) -> dict[str, Any] | None:
    """What the report needs of the last release."""
    if baseline is None:
        return None
    return {
        "file": baseline.file,
        "model": baseline.model,
        "verdict": baseline.verdict,
        "finished": baseline.finished,
        "commit": baseline.commit,
        "images": [
            {"norm": norm, "image": image, "distance": row.get("distance"), "status": row.get("status")}
            for (norm, image), row in sorted(baseline.images.items())
        ],
    }
