"""Wiring only: which modules are pytest plugins."""

pytest_plugins = [
    "pytester",  # for meta_tests, which may not name plugins themselves
    "robustness_tests.harness.workers",
    "robustness_tests.harness.options",
    "robustness_tests.harness.collection",
    "robustness_tests.harness.progress",
    "robustness_tests.harness.records",
    "robustness_tests.harness.fixtures",
    "reports.results_json",
    "reports.html",
    "reports.terminal",
]
