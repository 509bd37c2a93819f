"""Every example in a docstring is run, and every package is in the distribution."""

import doctest
import importlib
import pkgutil
import tomllib
from pathlib import Path

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


def test_every_package_is_in_the_distribution():
    """An editable installation works without; a wheel would lack the folder."""
    root = Path(metrics.__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = ("metrics", "reports", "robustness_tests")
    folders = [file.parent.relative_to(root) for top in tops for file in (root / top).rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)
