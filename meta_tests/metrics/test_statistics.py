"""Intervals and comparisons against scipy and by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metrics.statistics import compare, median, share


@given(total=st.integers(1, 200), part=st.floats(0, 1))
def test_share_is_clopper_and_pearson(total, part):
    successes = round(part * total)
    found = share(successes, total, 0.95)
    lower = stats.beta.ppf(0.025, successes, total - successes + 1) if successes else 0
    upper = stats.beta.ppf(0.975, successes + 1, total - successes) if successes < total else 1
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=1e-9)
    assert found.lower <= found.value <= found.upper


@pytest.mark.parametrize("count", [6, 25, 100])
def test_interval_of_the_median_covers_as_often_as_it_says(count):
    random = np.random.default_rng(0)
    found = [median(random.exponential(1, count)) for _ in range(2000)]
    covered = np.mean([one.lower <= np.log(2) <= one.upper for one in found])
    assert covered >= 0.94
    assert np.isfinite(found[0].upper)


def test_few_values_have_an_infinite_interval():
    assert median([1.0, 2.0, 3.0]).upper == np.inf


def test_censored_values_are_larger_than_all_others():
    found = median([0.1, 0.2, 0.3, np.inf, np.inf])
    assert found.value == 0.3
    assert median([0.1, np.inf, np.inf]).value == np.inf


def test_comparison_is_wilcoxons():
    random = np.random.default_rng(1)
    ours, theirs = random.normal(0.2, 1, 60), random.normal(0, 1, 60)
    found = compare(ours, theirs)
    assert found.p_value == pytest.approx(stats.wilcoxon(ours, theirs, alternative="greater").pvalue)
    assert found.difference.value == pytest.approx(np.median(ours - theirs))


def test_comparison_under_no_difference_is_rarely_significant():
    random = np.random.default_rng(2)
    values = [compare(*random.normal(0, 1, (2, 30))).p_value for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(values) <= 0.05) <= 0.07


def test_infinite_values_count_by_rank():
    # Censored for both: a tie. For one: the largest difference of all.
    assert compare([np.inf, 2, 3], [np.inf, 1, 1]).difference.value == 1
    base = compare([5, 2, 3, 4, 6, 7.0], [1, 1, 1, 1, 1, 1.0]).p_value
    assert compare([np.inf, 2, 3, 4, 6, 7.0], [1, 1, 1, 1, 1, 1.0]).p_value == base
    assert compare([1, 2, 3, 4, 6, 7.0], [np.inf] * 6).p_value > 0.95


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (share, (3, 2)),
        (share, (0, 0)),
        (median, ([],)),
        (median, ([float("nan")],)),
        (compare, ([1.0], [1.0, 2.0])),
        (compare, ([], [])),
        (compare, ([float("nan")], [1.0])),
    ],
)
def test_bad_values_are_refused(function, arguments):
    with pytest.raises(ValueError, match=r"got .*expected"):
        function(*arguments)
