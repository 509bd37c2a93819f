"""The fixtures of a run: its options, models and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from robustness_tests.harness.baseline import Baseline
from robustness_tests.harness.run import RUN, Run
from robustness_tests.harness.thresholds import Thresholds
from robustness_tests.subjects.leaderboard import LeaderboardEntry

if TYPE_CHECKING:
    # Importing torch takes seconds; the controller of a distributed run never needs it.
    from robustness_tests.harness.measurements import Measurements
    from robustness_tests.harness.subject import Subject


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Run:
    """The options of this run."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def thresholds(run: Run) -> Thresholds:
    """What counts as good enough: thresholds.toml and the file of `--thresholds`."""
    return run.thresholds


@pytest.fixture(scope="session")
def baseline(run: Run) -> Baseline:
    """The results of the last release, `--baseline`. The test is skipped if there are none."""
    if run.baseline is None:
        pytest.skip("nothing to compare: no results of a last release were given (--baseline)")
    return run.baseline


@pytest.fixture(scope="session")
def images(run: Run) -> Sequence[int]:
    """The dataset indices of this run's images."""
    return run.indices(run.images)


@pytest.fixture(scope="session")
def measurements(pytestconfig: pytest.Config) -> Measurements:
    """All measurements of this run, which the fixtures of metrics use."""
    from robustness_tests.harness.measurements import measurements_of  # noqa: PLC0415  # torch, see above

    return measurements_of(pytestconfig)


@pytest.fixture(scope="session")
def candidate(measurements: Measurements, run: Run) -> Subject:
    """The model under release, `--model`."""
    return measurements.subject(run.model)


@pytest.fixture(scope="session")
def reference(measurements: Measurements, run: Run) -> Subject:
    """The model that the candidate has to beat, `--against`."""
    return measurements.subject(run.against)


@pytest.fixture
def model(measurements: Measurements, model_name: str) -> Subject:
    """Each model of the run in turn: a test that asks for it runs once for candidate and reference."""
    return measurements.subject(model_name)


@pytest.fixture
def leaderboard(run: Run, model_name: str) -> LeaderboardEntry:
    """What RobustBench states for `model`. The test is skipped if there is nothing for this one of the two models."""
    if model_name not in run.leaderboard:
        pytest.skip(f"RobustBench states nothing for {model_name}")
    return run.leaderboard[model_name]
