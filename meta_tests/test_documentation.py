"""Every example in a docstring is run."""

import doctest
import importlib
import pkgutil

import pytest

import metrics
import reports
import robustness_tests.harness
import robustness_tests.subjects

PACKAGES = [metrics, reports, robustness_tests.harness, robustness_tests.subjects]
MODULES = [
    found.name for package in PACKAGES for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not result.failed
