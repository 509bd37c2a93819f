"""Other plugins of pytest that would change what the suite measures. Imports no torch."""

import pytest

from robustness_tests.harness.collection import measures
from robustness_tests.harness.run import IN_USE


def pytest_configure(config: pytest.Config) -> None:
    """Refuse `--count` of pytest-repeat: equal tests would count as several properties."""
    count = config.getoption("count", 1) if config.pluginmanager.hasplugin("repeat") else 1
    if config.stash[IN_USE] and isinstance(count, int) and count > 1:
        raise pytest.UsageError(
            f"--count: got {count}, expected 1: the same image gives the same number. --seed gives other ones"
        )


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """Keep pytest-timeout away from tests about models: a batch's time is not that of the test that comes first.

    `--timeout-per-batch` is the limit of a batch.
    """
    measured = item.config.stash[IN_USE] and measures(getattr(item, "fixturenames", ()))
    return True if measured else None
