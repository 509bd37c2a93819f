"""`--images auto`: the error that is stated, when it goes on, and whole runs."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, wilcoxon

from meta_tests.runs import RUN, model_record, results_of
from metrics.statistics import compare, share
from reports.holm import holm
from reports.sample_size import is_open
from robustness_tests.harness.looks import Looks, planned_sizes
from robustness_tests.harness.measured import Figures
from robustness_tests.harness.thresholds import load_thresholds

REPEATS = 2000
LOOKS = Looks(planned_sizes(100, 1000))
THRESHOLDS = load_thresholds(None)
SPENT = LOOKS.spent(THRESHOLDS)


def intervals(size, confidence):
    """The interval of each number of successes: that of `share`, all at once."""
    counts = np.arange(size + 1)
    lower = np.nan_to_num(beta.ppf((1 - confidence) / 2, counts, size - counts + 1), nan=0)
    upper = np.nan_to_num(beta.ppf((1 + confidence) / 2, counts + 1, size - counts), nan=1)
    found = share(size // 3, size, confidence)
    assert (lower[size // 3], upper[size // 3]) == pytest.approx((found.lower, found.upper))
    return lower, upper


def decided_shares(true, threshold, confidence):
    """For each repeat, the number of images at the look that decides, and whether it says that the share is larger."""
    right = np.random.default_rng(0).random((REPEATS, LOOKS.sizes[-1])) < true
    ends = {size: intervals(size, confidence) for size in LOOKS.sizes}
    for row in right:
        for size in LOOKS.sizes:
            count = row[:size].sum()
            lower, upper = (end[count] for end in ends[size])
            if not is_open(Figures(value=count / size, lower=lower, upper=upper, threshold=threshold)):
                yield size, bool(count / size > threshold)
                break
        else:
            yield None, None


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.98])
def test_error_of_a_share_is_as_stated(threshold):
    """A true share just below or just above its threshold is found on the wrong side in 2.5 % of the runs at most."""
    found = list(decided_shares(threshold, threshold, SPENT.confidence))
    for side in (True, False):
        assert np.mean([larger is side for _, larger in found]) <= (1 - THRESHOLDS.confidence) / 2
    if threshold < 0.98:  # there the exact interval of one look is wider than it has to be
        unspent = decided_shares(threshold, threshold, THRESHOLDS.confidence)
        assert np.mean([images is not None for images, _ in unspent]) > 1 - THRESHOLDS.confidence


def test_error_of_a_comparison_is_as_stated():
    """Two models that are equally good: one is found to be better in 5 % of the runs at most, over all looks."""
    draws = np.random.default_rng(1).standard_t(3, (REPEATS, LOOKS.sizes[-1]))
    p_values = np.array([wilcoxon(draws[:, :size], axis=1, alternative="greater").pvalue for size in LOOKS.sizes])
    assert p_values[:, 0] == pytest.approx([compare(draws[0, :size], np.zeros(size)).p_value for size in LOOKS.sizes])
    smallest = p_values.min(axis=0)
    assert np.mean(smallest <= SPENT.largest_p_value) <= THRESHOLDS.largest_p_value
    assert np.mean(smallest <= THRESHOLDS.largest_p_value) > 2 * THRESHOLDS.largest_p_value, "without spending"


@pytest.mark.parametrize(
    ("true", "threshold", "mean", "decided"), [(0.9, 0.8, 180, 0.99), (0.95, 0.9, 400, 0.99), (0.6, 0.8, 110, 0.99)]
)
def test_a_clear_share_is_decided_early(true, threshold, mean, decided):
    found = list(decided_shares(true, threshold, SPENT.confidence))
    assert np.mean([images or LOOKS.sizes[-1] for images, _ in found]) <= mean
    assert np.mean([larger is (true > threshold) for _, larger in found]) >= decided


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """The adjusted p-value of a comparison is the largest Bonferroni p-value of all sets that it is in."""
    rows = range(len(p_values))
    every = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(rows, size)]
    expected = [
        max(min(1, len(chosen) * min(p_values[one] for one in chosen)) for chosen in every if row in chosen)
        for row in rows
    ]
    assert holm(p_values) == pytest.approx(expected)


OPEN = {"value": 0.97, "lower": 0.9, "upper": 0.99, "threshold": 0.95, "images": 60}
DECIDED = {**OPEN, "threshold": 0.8}


def robust(values, outcome="passed", **about):
    return model_record("test_robust_accuracy", outcome, values, norm="linf", epsilon="0.1", **about)


def clean(values, outcome="passed"):
    return model_record("test_clean_accuracy", outcome, values)


CASES = {
    "open": ([robust(OPEN)], 0, True),
    "open and failed": ([robust(OPEN | {"value": 0.94}, "failed")], 1, True),
    "decided": ([robust(DECIDED)], 0, False),
    "another has failed": ([robust(OPEN), clean(OPEN, "failed")], 1, False),
    "of images that the next look does not add": ([clean(OPEN)], 0, False),
    "a test elsewhere has failed": ([robust(OPEN)], 1, False),
    "interrupted": ([robust(OPEN)], 2, False),
    "of the numbers": ([model_record("test_share_of_clever_below_distance", values=OPEN, norm="linf")], 0, False),
    "an equal model": (
        [
            model_record(
                "test_candidate_beats_reference_in_clever",
                values=OPEN | {"p_value": 0.5, "threshold": 0.02},
                norm="linf",
            )
        ],
        0,
        True,
    ),
    "a worse model": (
        [
            model_record(
                "test_candidate_beats_reference_in_clever",
                "failed",
                OPEN | {"p_value": 0.99, "threshold": 0.02},
                norm="linf",
            )
        ],
        1,
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_goes_on_while_it_can_change_the_verdict(name):
    records, status, more = CASES[name]
    run = replace(RUN, images=60, test_images=1000, looks=Looks((60, 120, 240)))
    results = results_of(*records, run=run, status=status)
    assert results.goes_on is more
    said = "Look 1 of 3: the next one has 120 images." if more else "Look 1 of 3 is the last: "
    assert any(note.startswith(said) for note in results.notes) is (status < 2)
    last = replace(run, looks=Looks((60, 120, 240), number=2))
    assert not results_of(*records, run=last, status=status).goes_on


@pytest.mark.parametrize(("effort", "images", "more"), [("thorough", 60, True), ("default", 60, False)])
def test_certified_images_grow_at_thorough_effort_only(effort, images, more):
    run = replace(RUN, images=images, test_images=1000, effort=effort, looks=Looks((60, 120, 240)))
    certified = model_record("test_certified_accuracy", "failed", OPEN | {"value": 0.9}, norm="linf", epsilon="0.1")
    assert results_of(certified, run=run, status=1).goes_on is more


def test_stopping_at_the_first_failure_is_refused(gate):
    done = gate("--quick", "--images", "auto", "-x")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["ERROR: --images: got 'auto' with -x or --maxfail, expected neither: *"])


AUTO = ("--quick", "--norms", "linf", "--against", "robust", "-k", "not smoothed and not within and not perturbation")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_whole_runs(gate, workers):
    """Two looks; none measures again what an earlier one has, and the last one is the usual run on its images."""
    command = (workers, *AUTO, "--results", "auto", "--images", "auto:40", "--fresh")
    done = gate(*command)
    looks = [line.partition(",")[0] for line in done.outlines if line.startswith("robustness: look")]
    assert looks == [f"robustness: look {number} of 2" for number in (1, 2)]
    done.stdout.no_fnmatch_line("*warnings summary*")
    auto = json.loads((gate.folder / "auto/results.json").read_text())
    assert done.ret == auto["exit_status"] == 0
    assert (auto["goes_on"], auto["run"]["looks"]) == (False, {"sizes": [20, 40], "number": 1})
    assert auto["measurements"]["stored"] == 0, "all is of this run, and --fresh does not measure it again"
    assert auto["thresholds"]["confidence"] == pytest.approx(1 - 0.05 / 2)

    assert gate(workers, *AUTO, "--images", "40").ret == 0
    usual = gate.results()
    assert auto["images"] == usual["images"]
    assert auto["passes"] == usual["passes"], "each batch was measured once"


def test_run_that_is_decided_stops(measured_gate, tmp_path, monkeypatch):
    """At the first look, passed or failed. The page of a GitHub run gets one summary."""
    gate = measured_gate
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page.md"))
    chosen = ("--quick", "--norms", "linf", "-k", "test_robust_accuracy", "--images", "auto:40")
    for least, status in (("0.2", 0), ("0.999", 1)):
        (gate.folder / "mine.toml").write_text(
            f'[robust_accuracy.digits]\nlinf = {{ "0.05" = {least}, "0.1" = {least} }}\n'
        )
        done = gate(*chosen, "--thresholds=mine.toml")
        assert done.ret == status
        assert sum(line.startswith("robustness: look") for line in done.outlines) == 1
        assert gate.results()["run"]["images"] == 20


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("auto:0", "--images: got 'auto:0', expected a whole number, 1 or more, auto or auto:LIMIT"),
        ("auto:", "--images: got 'auto:', expected a whole number, 1 or more, auto or auto:LIMIT"),
        ("auto:many", "--images: got 'auto:many', expected a whole number, 1 or more, auto or auto:LIMIT"),
        ("automatic", "--images: got 'automatic', expected a whole number, 1 or more, auto or auto:LIMIT"),
        ("auto:5000", "--images: got auto:5000, expected at most 360, the test split of 'digits'"),
    ],
)
def test_wrong_limits_are_one_line(gate, images, message):
    done = gate("--quick", "--images", images)
    assert done.ret == 4
    assert [line for line in done.errlines if line] == [f"ERROR: {message}"]
