"""The suite as a pytest plugin: the entry point of the installed package."""

from collections.abc import Generator

import pytest

import reports
import robustness_tests
from robustness_tests.harness import fixtures

PLUGINS = [
    *(
        f"{robustness_tests.__name__}.harness.{name}"
        for name in (
            "options",
            "checked_run",
            "header",
            "workers",
            "signals",
            # Before what imports it: assertions of a module that was imported before it is a plugin are not rewritten.
            "collection",
            "measured",
            "other_plugins",
            "progress",
            "records",
            "shards",
            "run_fixtures",
        )
    ),
    *fixtures.PLUGINS,
    *(
        f"{reports.__name__}.{name}"
        for name in ("results_json", "junit", "markdown", "html", "terminal", "auto_images")
    ),
]
"""The modules with hooks and fixtures; conftest.py of a checkout names the same ones."""


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Load the plugins after the user's conftest files, whose options keep their names if both define the same one."""
    result = yield
    for name in PLUGINS:
        early_config.pluginmanager.import_plugin(name)
    return result
