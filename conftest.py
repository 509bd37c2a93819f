"""Wiring only: which modules are pytest plugins."""

from robustness_tests.plugin import PLUGINS

pytest_plugins = [
    "pytester",  # for meta_tests, which may not name plugins themselves
    *PLUGINS,
]
