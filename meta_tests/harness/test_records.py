"""What the controller keeps of the reports of tests."""

import pytest

from robustness_tests.harness.records import Gathering, Records

ABOUT = [("property", "test_adversarial_example_is_real"), ("model", "robust")]


class Others:
    """A plugin that keeps all reports and what it sees in them, as the terminal does."""

    def __init__(self):
        self.reports, self.seen = [], []

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        self.reports.append(report)
        self.seen.append((dict(report.user_properties), dict(report.keywords)))


def reported(phases, about):
    """Let the phases of a test be reported."""
    plugins, others, gathering = pytest.PytestPluginManager(), Others(), Gathering(Records())
    plugins.register(others)
    plugins.register(gathering)
    for when, outcome in phases:
        values = [("distance", 0.5), ("trace", [0.5])] if when != "setup" else []
        report = pytest.TestReport(
            "a.py::a", ("a.py", 1, "a"), {"a": 1}, outcome, None, when, user_properties=about + values
        )
        plugins.hook.pytest_runtest_logreport(report=report)
    return others, gathering.records.by_test["a.py::a"]


PASSED = [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]


def test_reports_of_an_image_that_went_well_are_emptied_after_all_plugins_have_seen_them():
    others, record = reported(PASSED, [*ABOUT, ("image", 3)])
    assert [keywords for _, keywords in others.seen] == [{"a": 1}] * 3
    assert others.seen[1][0]["distance"] == 0.5
    assert all(not report.user_properties and not report.keywords for report in others.reports)
    assert (record.about["image"], record.values) == (3, {"distance": 0.5, "trace": [0.5]})


@pytest.mark.parametrize(
    ("phases", "about"),
    [
        (PASSED, ABOUT),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], [*ABOUT, ("image", 3)]),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], [*ABOUT, ("image", 3)]),
    ],
    ids=["of a model", "failed", "failed at its end"],
)
def test_other_reports_stay_as_they_are(phases, about):
    others, _ = reported(phases, about)
    assert all(report.keywords == {"a": 1} for report in others.reports)
    assert all(dict(about).items() <= dict(report.user_properties).items() for report in others.reports)
