"""The names that reports know, and what a test may put under them."""

from dataclasses import fields

import pytest
import torch

from metrics.statistics import Estimate, compare, mean_difference, share
from robustness_tests.harness.measured import ABOUT, Costs, Figures, Measured, read, values_of


def test_estimate_and_difference_fill_the_columns():
    result = compare([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert values_of(estimate=Estimate(0.5, 0.25, 0.75)) == {"value": 0.5, "lower": 0.25, "upper": 0.75}
    assert values_of(value=3.0, difference=result.difference) == {
        "difference": 2.0,
        "lower": None,
        "upper": None,
        "value": 3.0,
    }
    change = mean_difference([1.0, 0.0], [1.0, 1.0])
    assert values_of(difference=change)["lower"] == change.lower


def test_tensors_and_statuses_become_plain_and_keep_their_bits():
    found = values_of({"scores": torch.tensor([0.1, 0.2])}, value=torch.tensor(0.1), images=torch.tensor(3))
    assert found["scores"] == torch.tensor([0.1, 0.2]).tolist()
    assert (found["value"], found["images"]) == (torch.tensor(0.1).item(), 3)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"treshold": 0.9}, ValueError, r"got measured\(treshold=...\), expected one of .*did you mean 'threshold'\?"),
        ({"ratio": 0.9}, ValueError, r"A name of your own stands in a dictionary: measured\(\{'ratio': \.\.\.\}\)"),
        ({"norm": "l2"}, ValueError, "expected another name: this one says what a test is about"),
        ({"images": 0.5}, TypeError, r"got measured\(images=0.5\), expected int \| None"),
        ({"images": True}, TypeError, r"got measured\(images=True\)"),
        ({"value": "much"}, TypeError, r"got measured\(value='much'\), expected float \| None"),
        ({"unit": "percent"}, TypeError, r"got measured\(unit='percent'\), expected .*'share', 'distance', 'ratio'"),
        ({"worst": [1, "b"]}, TypeError, r"got measured\(worst=\[1, 'b'\]\)"),
        ({"estimate": 0.5}, TypeError, r"got measured\(estimate=0.5\), expected an Estimate"),
        ({"value": object()}, TypeError, "got a value of object to record"),
    ],
)
def test_mistakes_end_in_a_sentence(given, error, message):
    with pytest.raises(error, match=message):
        values_of(**given)


@pytest.mark.parametrize("name", [*ABOUT, *(field.name for field in fields(Measured))])
def test_a_value_of_a_users_own_never_takes_a_name_that_has_a_meaning(name):
    with pytest.raises(ValueError, match=f"got '{name}' in a dictionary of values of your own, expected"):
        values_of({name: 1})


def test_what_is_recorded_is_read_again():
    given = values_of({"mine": "x"}, estimate=share(9, 10), images=10, worst=[3], forward=4, backward=0, stored=True)
    assert read(Costs, given) == Costs(forward=4, backward=0, stored=True)
    figures = read(Figures, given)
    assert (figures.value, figures.images, figures.judged_by) == (0.9, 10, "value")
    assert read(Measured, given).worst == [3]


def test_record_property_of_another_type_is_left_out():
    odd = {"value": "text", "images": 2.5, "unit": "metres", "worst": "all", "p_value": True, "lower": 1}
    assert read(Measured, odd) == Measured(lower=1)
