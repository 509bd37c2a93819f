"""How many images would decide: against simulations, and where the report says it."""

import numpy as np
import pytest

from meta_tests.runs import model_record, results_of
from metrics.statistics import compare, share
from reports.rows import cells
from reports.sample_size import images_for_comparison, images_for_share, images_to_decide
from robustness_tests.harness.measured import Figures

REPEATS = 2000


@pytest.mark.parametrize(
    ("value", "threshold", "confidence"),
    [(0.9, 0.95, 0.95), (0.9, 0.8, 0.95), (0.5, 0.6, 0.95), (0.3, 0.2, 0.99), (0.85, 0.82, 0.9)],
)
def test_so_many_images_decide_a_share_in_four_of_five_cases(value, threshold, confidence):
    """The exact interval is wider than the normal one, so the power is a little smaller."""
    count = images_for_share(value, threshold, confidence)
    successes = np.random.default_rng(0).binomial(count, value, REPEATS)
    found = {one: share(int(one), count, confidence) for one in set(successes.tolist())}
    decided = np.mean([not found[one].lower <= threshold <= found[one].upper for one in successes.tolist()])
    assert 0.74 <= decided <= 0.84
    half = np.random.default_rng(1).binomial(count // 2, value, REPEATS)
    found = {one: share(int(one), count // 2, confidence) for one in set(half.tolist())}
    assert np.mean([not found[one].lower <= threshold <= found[one].upper for one in half.tolist()]) < 0.6


@pytest.mark.parametrize(("effect", "images", "largest"), [(0.3, 30, 0.05), (0.2, 100, 0.05), (0.4, 40, 0.001)])
def test_so_many_images_decide_a_comparison_in_four_of_five_cases(effect, images, largest):
    """Differences with this mean and spread 1, from the p-value that they have at the median."""
    generator = np.random.default_rng(0)

    def p_value(count):
        return compare(generator.normal(effect, 1, count), np.zeros(count)).p_value

    usual = float(np.median([p_value(images) for _ in range(500)]))
    count = images_for_comparison(images, usual, largest)
    decided = np.mean([p_value(count) <= largest for _ in range(REPEATS)])
    assert 0.74 <= decided <= 0.86


def test_known_number():
    """Fleiss, Levin and Paik, section 2.4: (1.96 x 0.4899 + 0.8416 x 0.5)^2 / 0.01 = 190.7."""
    assert images_for_share(0.5, 0.6, 0.95) == 191


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (Figures(images=100, value=0.9, lower=0.82, upper=0.95, threshold=0.95), images_for_share(0.9, 0.95, 0.95)),
        (Figures(images=100, value=0.9, lower=0.82, upper=0.95, threshold=0.8), None),
        (Figures(images=100, value=0.9, lower=0.82, upper=0.95), None),
        (Figures(images=100, value=0.9, lower=0.82, upper=0.95, threshold=0.9), None),
        (Figures(images=90, value=1.3, lower=0.9, upper=1.6, threshold=1.2, unit="ratio"), None),
        (Figures(images=50, value=2.0, reference_value=1.9, p_value=0.2, threshold=0.05), 437),
        (Figures(images=50, value=2.0, reference_value=1.9, p_value=0.2, threshold=0.0), None),
        (Figures(images=50, value=2.0, reference_value=1.0, p_value=0.01, threshold=0.05), None),
        (Figures(images=50, value=1.0, reference_value=2.0, p_value=0.9, threshold=0.05), None),
        (Figures(images=50, value=1.0, reference_value=2.0, p_value=1.0, threshold=0.05), None),
        (Figures(images=50, value=1.0, threshold=0.05), None),
        (Figures(), None),
    ],
)
def test_only_what_is_open_gets_a_number(figures, expected):
    assert images_to_decide(figures, 0.95) == expected


def test_the_row_says_it():
    values = {"value": 0.9, "lower": 0.82, "upper": 0.95, "threshold": 0.95, "images": 100}
    found = {
        name: results_of(model_record(**record)).properties[0]
        for name, record in {
            "open": {"name": "test_robust_accuracy", "outcome": "failed", "values": values},
            "decided": {"name": "test_robust_accuracy", "values": values | {"threshold": 0.5}},
            "not judged": {"name": "test_robust_accuracy", "outcome": "skipped", "values": values},
            "of the numbers": {"name": "test_share_of_clever_below_distance", "values": values},
        }.items()
    }
    assert {name: row.images_to_decide for name, row in found.items()} == {
        "open": 185,
        "decided": None,
        "not judged": None,
        "of the numbers": None,
    }
    assert cells(found["open"])[4] == ">= 95.0%; open, about 185 images decide"
    assert cells(found["decided"])[4] == ">= 50.0%"
