"""Installed, and used from a folder of the user: beside modules and options of the same names, and in own tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("metrics", "reports", "robustness_tests", "pyproject.toml", "setup.py", "README.md", "LICENSE")

NET = """
import metrics

from torch import nn
from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.models import bundled

assert metrics.MINE


def net():
    return bundled(MODELS["digits", "mlp"])
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """What `pip install` of this checkout writes."""
    checkout, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("site")
    for name in PACKAGED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
    ]
    done = subprocess.run([*install, checkout], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def user(tmp_path, site, monkeypatch):
    """A folder of a user, with modules called `metrics` and `reports`, and pytest called in it."""
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg/__init__.py").touch()
    (tmp_path / "mypkg/nets.py").write_text(NET)
    for name in ("metrics", "reports"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    for name in list(os.environ):
        if name.startswith(("PYTEST_", "OMP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(site))

    def run(*arguments):
        command = [Path(sys.executable).with_name("pytest"), "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    run.folder = tmp_path
    return run


def test_nothing_is_installed_under_a_common_name(site):
    names = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert names == {"robustness_gate", "robustness_tests"}
    assert (site / "robustness_gate/reports/report.css").is_file()
    assert (site / "robustness_gate/metrics/py.typed").is_file()
    assert (site / "robustness_tests/thresholds.toml").is_file()
    assert list((site / "robustness_tests/subjects/weights").glob("*.safetensors"))
    assert (site / "robustness_tests/subjects/data/cifar10-sample.npz").is_file()
    assert (site / "robustness_gate/reports/templates/study.md").is_file()


def test_gate_runs_from_any_folder(user):
    arguments = ("--model", "mypkg.nets:net", "--quick", "--certify=off", "--images=4", "--batch-size=4", "--norms=l2")
    done = user("-n2", *arguments, "-k", "is_real or clean or anchored or noise")
    assert "mypkg.nets.net (mypkg.nets:net) against standard on digits" in done.stdout, done.stdout + done.stderr
    assert done.returncode in (0, 1), "properties are judged: five images may be too few"
    assert "error" not in done.stdout.rpartition("\n=")[2]
    page = (user.folder / "robustness-results/report.html").read_text()
    assert "is not whole" not in page
    assert "<svg" in page, "figures, templates and styles are installed"


def test_fixtures_are_there_for_tests_of_the_user(user):
    (user.folder / "test_mine.py").write_text(
        "import metrics, reports\n"
        "from robustness_gate.metrics import Status\n\n"
        "def test_distance(candidate, adversarial_distance):\n"
        "    found = adversarial_distance(candidate, 7, norm='l2')\n"
        "    assert found.status is Status.ATTACKED and candidate.name == 'mypkg.nets.net'\n"
        "    assert metrics.MINE and reports.MINE\n"
    )
    (user.folder / "pytest.ini").write_text("[pytest]\nrobustness_model = mypkg.nets:net\nrobustness_effort = quick\n")
    done = user("test_mine.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_runs_are_left_as_they_are(user):
    """No report, no header, and an option of the user's own conftest that has the same name."""
    (user.folder / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--model', default='mine')\n"
        "    parser.addoption('--seed', type=int)\n"
    )
    (user.folder / "test_mine.py").write_text(
        "import sys\n\ndef test_option(pytestconfig):\n"
        "    assert pytestconfig.getoption('--model') == 'theirs'\n"
        "    assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = user("test_mine.py", "--model", "theirs", "--html=report.html", "-n1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "robustness:" not in done.stdout
    assert not (user.folder / "robustness-results").exists()
    assert "CLEVER" not in (user.folder / "report.html").read_text()
    done = user("--pyargs", "robustness_tests", "--robustness-model", "nonsense")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--model: got 'nonsense'" in done.stderr
