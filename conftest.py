"""Wiring only: which modules are pytest plugins."""

import pytest

from robustness_tests.plugin import PLUGINS


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugins.

    Not by `pytest_plugins`, which pytest forbids where this file is below the root of a run: in an editable
    installation, a run in a folder of the user's collects the suite from here.
    """
    for name in PLUGINS:
        pluginmanager.import_plugin(name)
