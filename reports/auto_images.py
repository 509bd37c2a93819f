"""`--images auto`: one look after the other, each a run of its own, which reads what the earlier ones have measured."""

import time

import pytest

from reports.results import Results
from reports.results_json import RESULTS
from robustness_tests.harness import option_values
from robustness_tests.harness.looks import LATER_LOOK, LaterLook, Looks
from robustness_tests.harness.options import OPTIONS, given_value, in_use
from robustness_tests.harness.run import RUN, Run, is_worker

WITHOUT_TESTS = ("help", "version", "showfixtures", "show_fixtures_per_test", "markers", "collectonly", "setupplan")
"""Options with which pytest runs no test."""

QUIETLY = ("-W", "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning")
"""Every run after the first one in a process would warn of this."""


class Look:
    """A plugin for one look: tells the run which one it is, and keeps what it has shown."""

    def __init__(self, later: LaterLook | None) -> None:
        self.later = later
        self.run: Run | None = None
        self.results: Results | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        """Before the options are checked."""
        config.stash[LATER_LOOK] = self.later

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """After the reports are written."""
        self.run, self.results = config.stash.get(RUN, None), config.stash.get(RESULTS, None)

    @property
    def next_looks(self) -> Looks | None:
        """The plan with the number of the next look; None if this was the last one."""
        if self.run is None or self.run.looks is None or self.results is None or not self.results.goes_on:
            return None
        return self.run.looks.next


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run the looks, if this is not one of them."""
    if LATER_LOOK in config.stash or not _asked_for(config):
        return None
    started, looks = time.time(), None
    while True:
        look = Look(LaterLook(looks, started) if looks else None)
        status = pytest.main(
            [*QUIETLY, *config.invocation_params.args], [*(config.invocation_params.plugins or ()), look]
        )
        looks = look.next_looks
        if looks is None:
            return status


def _asked_for(config: pytest.Config) -> bool:
    if is_worker(config) or not in_use(config) or any(getattr(config.option, name, 0) for name in WITHOUT_TESTS):
        return False
    (images,) = (given_value(config, option) for option in OPTIONS if option.name == "images")
    try:
        return bool(images) and option_values.limit(images) is not None
    except ValueError:  # reported when the options are checked
        return False
