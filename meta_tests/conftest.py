"""Fixtures of the meta_tests: real images and networks where they are, and a gate to run."""

import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import bundled_images
from robustness_tests.subjects.datasets import digits as digits_of
from robustness_tests.subjects.models import bundled

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whole runs of the gate, and installations, are slow: `-m "not slow"` leaves them out."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


SLOW_FIXTURES = {"gate", "whole_run", "site"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As in the gate: two threads on two cores would fight with the processes that some tests start."""
    torch.set_num_threads(1)


def shared_file(name):
    """A file of the team's shared folder; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"needs the file {name} of the shared folder beside the checkout")
    return path


@pytest.fixture(scope="session")
def cifar10():
    """The first 500 images of the CIFAR-10 test set."""
    return bundled_images("cifar10-sample")


@pytest.fixture(scope="session")
def digits():
    """The test split of the bundled dataset."""
    return digits_of("test")


@pytest.fixture(scope="session")
def robust():
    """The bundled robust model."""
    return bundled(MODELS["digits", "robust"])


def study_models():
    """The models file of the CIFAR-10 study."""
    specification = importlib.util.spec_from_file_location(
        "cifar10_study_models", ROOT / "examples/cifar10_study/models.py"
    )
    models = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(models)
    return models


@pytest.fixture(scope="session")
def cifar10_network():
    """A network for CIFAR-10: one of the study's example, or of the bundled pair, by its name."""

    def load(name):
        return bundled(MODELS["cifar10-sample", name]) if name in BUNDLED else getattr(study_models(), name)()

    return load


BUNDLED = ("standard", "robust")


@pytest.fixture(scope="session")
def suite(shared_folder):
    """The suite without the tests of it, compiled: as many processes import it as there are runs."""
    with FileLock(shared_folder / "suite.lock"):
        folder = shared_folder / "suite"
        if not folder.is_dir():
            for name in ("metrics", "reports", "robustness_tests"):
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("conftest.py", "pyproject.toml"):
                shutil.copy2(ROOT / name, folder / name)
            # Certificates take as long as all else together: a test that is about them asks for them.
            options = folder / "pyproject.toml"
            text = options.read_text().replace("[tool.pytest]\n", '[tool.pytest]\nrobustness_certify = "off"\n')
            options.write_text(text)
            compileall.compile_dir(folder, quiet=2)
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this run that all workers have."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def environment():
    """That of this run, without what it has told its own workers: that is not meant for another run."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OMP_", "GITHUB_"))}


@pytest.fixture
def libraries():
    """What a test with `pytester` imports, kept: `pytester` removes it, and onnx and pyarrow cannot be loaded twice."""
    imported = {}
    yield imported
    sys.modules.update(imported)


@pytest.fixture
def pytester(libraries, pytester):
    """That of pytest, after which imported libraries stay."""
    yield pytester
    for name, module in sys.modules.items():
        if not str(getattr(module, "__file__", "")).startswith(str(pytester.path)):
            libraries[name] = module


@pytest.fixture
def gate(pytester, suite, monkeypatch):
    """A copy of the suite to run: `gate("-n2", "--quick")` in a process of its own."""
    shutil.copytree(suite, pytester.path, dirs_exist_ok=True)
    for name in os.environ.keys() - environment():
        monkeypatch.delenv(name)
    return Gate(pytester)


WHOLE = ("--quick", "--norms", "linf")


@pytest.fixture(scope="session")
def whole_run(shared_folder, suite):
    """The results of one passing run, `-n2` and `WHOLE`, made once for all workers. Not to be written to."""
    folder = shared_folder / "whole-run"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            shutil.copytree(suite, folder)
            done = subprocess.run(
                Gate.command("-n2", *WHOLE), cwd=folder, env=environment(), capture_output=True, text=True, check=False
            )
            (folder / "exit_status").write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    status, _, output = (folder / "exit_status").read_text().partition("\n")
    assert status == "0", output
    assert "warnings summary" not in output, output
    return folder / "robustness-results"


@pytest.fixture
def measured_gate(gate, whole_run):
    """The same as `gate`, with everything stored that a run with `WHOLE` measures: for tests about what follows."""
    shutil.copytree(whole_run / "measurements", gate.results_folder / "measurements")
    return gate


class Gate:
    """Runs the copied suite and reads what it leaves."""

    def __init__(self, pytester):
        self.pytester = pytester
        self.folder = pytester.path
        self.results_folder = self.folder / "robustness-results"

    def __call__(self, *arguments, timeout=300):
        return self.pytester.run(*self.command(*arguments), timeout=timeout)

    @staticmethod
    def command(*arguments):
        return (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments)

    def results(self):
        return json.loads((self.results_folder / "results.json").read_text())

    def values(self, test):
        """What a test of the last run has measured, by the node id's end."""
        (record,) = [record for record in self.results()["records"] if record["test"].endswith(test)]
        return record["values"]
