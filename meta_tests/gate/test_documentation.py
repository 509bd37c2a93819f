"""Examples of docstrings are run, imports point one way, and every package is in the distribution."""

import ast
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


MAY_IMPORT = {
    "metrics": (),
    "robustness_tests/subjects": ("metrics", "robustness_tests.subjects"),
    "robustness_tests/harness": ("metrics", "robustness_tests.subjects", "robustness_tests.harness"),
    "reports": ("metrics", "robustness_tests", "reports"),
}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder):
    """As CONTRIBUTING.md says; inside of functions, too."""
    root = Path(metrics.__file__).parents[1]
    ours = ("metrics", "reports", "robustness_tests", "references", "meta_tests", "benchmarks")
    package = folder.replace("/", ".")
    for file in (root / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                below = any(f"{name}.".startswith(f"{one}.") for one in (package, *MAY_IMPORT[folder]))
                above = package.startswith(f"{name}.")  # an empty package, for its folder
                assert below or above or name.partition(".")[0] not in ours, f"{file}:{node.lineno} imports {name}"


def test_every_package_is_in_the_distribution():
    """An editable installation works without; a wheel would lack the folder."""
    root = Path(metrics.__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    tops = ("metrics", "reports", "robustness_tests")
    folders = [file.parent.relative_to(root) for top in tops for file in (root / top).rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in folders)
