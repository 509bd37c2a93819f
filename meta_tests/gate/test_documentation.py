"""Documents: links lead somewhere, nothing is left out; imports point one way, packages are in the distribution."""

import ast
import doctest
import importlib
import pkgutil
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import metrics
import reports
import robustness_tests.harness
import robustness_tests.subjects
from meta_tests.conftest import ROOT

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


DOCUMENTS = [
    file
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md", "robustness_tests/**/*.md")
    for file in sorted(ROOT.glob(pattern))
]
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)|<img src=\"([^\"]+)\"")


def anchors_of(file):
    """Of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_of_documents(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path, anchor, image in LINK.findall(text):
        target = document.parent / (image or path) if image or path else document
        assert target.exists(), f"{document} links to {path or image}"
        assert not anchor or anchor in anchors_of(target), f"{document} links to {path}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_of_documents_is_python(document):
    for code in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(code)


def test_every_property_is_explained():
    text = (ROOT / "docs/properties.md").read_text(encoding="utf-8")
    for file in (ROOT / "robustness_tests").glob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"`{name}`" in text, f"{name} of {file.name} is not in docs/properties.md"


def test_every_metric_has_a_page():
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs/metrics").glob("*.md"))
    shown = set(re.findall(r"^::: metrics\.[\w.]*?(\w+)$", text, re.MULTILINE))
    assert shown >= set(metrics.__all__)


def test_page_of_options_is_that_of_the_table():
    page = runpy.run_path(str(ROOT / "docs/write_options.py"))["page"]()
    assert (ROOT / "docs/options.md").read_text(encoding="utf-8") == page, "run python docs/write_options.py"


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    assert len(text.encode()) <= 8 * 1024
