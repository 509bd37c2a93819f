"""Other plugins of pytest in the same run: they may change neither numbers nor the verdict."""

import json
import subprocess
import sys

import pytest
from filelock import FileLock

from meta_tests.conftest import WHOLE, environment
from robustness_tests.harness.run import IN_USE

PLUGINS = ("cov", "randomly", "repeat", "rerunfailures", "sugar", "timeout")
NEEDED = ("coverage", "termcolor")


@pytest.fixture(scope="session")
def plugins(shared_folder):
    """A folder of plugins that the other tests do not see."""
    folder = shared_folder / "plugins"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            names = [*(f"pytest-{name}" for name in PLUGINS), *NEEDED]
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *names],
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"needs the plugins from a package index: {done.stderr.strip()[-200:]}")
    return folder


def without_times(content):
    """A results.json without what differs between two runs of the same command."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in TIMES}
    return [without_times(value) for value in content] if isinstance(content, list) else content


TIMES = ("seconds", "started", "finished")


def test_all_of_them_at_once_change_nothing(gate, whole_run, plugins, monkeypatch):
    """Tests in random order, repeated where they fail, timed and traced: all but the times is the same."""
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    # anyio is always there: torch's own dependencies bring it.
    given = ("--timeout", "0.01", "--reruns", "1", "--cov", "robustness_tests")
    result = gate("-n2", *WHOLE, *given)
    assert result.ret == 0, result.outlines[-20:]
    assert any("coverage:" in line for line in result.outlines), "the plugins were there"
    assert any("--randomly-seed=" in line for line in result.outlines)
    expected = json.loads((whole_run / "results.json").read_text())
    assert without_times(gate.results()) == without_times(expected)


def test_equal_tests_are_refused(gate, plugins, monkeypatch):
    """pytest-repeat would double the properties, and with them Holm's correction."""
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    result = gate("-n0", *WHOLE, "--count", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --count: got 2, expected 1: the same image gives the same number.*"])
    (gate.folder / "test_mine.py").write_text("def test_mine(): pass\n")
    (gate.folder / "pytest.ini").write_text("[pytest]\n")
    folder = gate.folder / "elsewhere"
    folder.mkdir()
    (folder / "test_mine.py").write_text("def test_mine(): pass\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    gate.pytester.run(*gate.command("-n0", "--count", "2", f"--rootdir={folder}", str(folder))).assert_outcomes(
        passed=2
    )


def test_in_use_is_known_before_plugins_are_asked(pytestconfig):
    assert IN_USE in pytestconfig.stash
