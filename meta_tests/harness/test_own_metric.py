"""A metric is one file: the example of docs/extending.md, and where the names of our own may stand."""

import ast
import dataclasses
import os
import re
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from meta_tests.conftest import ROOT
from robustness_tests.harness.metric import METRICS, Metric, metric_fixture, with_needs

EXAMPLE = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)


@pytest.fixture
def with_example(gate):
    """The suite, and the files of the example in a folder of the user's."""
    folder = gate.folder / "mine"
    folder.mkdir()
    for name, content in EXAMPLE:
        (folder / name).write_text(content)
    return gate


def brightness_of(gate):
    return {
        path.name: path.read_bytes()
        for path in (gate.results_folder / "measurements/brightness").rglob("*.safetensors")
    }


ASKED = ("--quick", "--against", "robust", "--norms", "linf,l2", "--images", "30", "mine")


def test_example_is_stored_resumed_and_reported(with_example):
    """At -n0 and -n2: the same bits; a second run measures nothing, and another file is measured again."""
    gate = with_example
    gate("-n0", *ASKED).assert_outcomes(passed=1)
    first = brightness_of(gate)
    assert len(first) == 2, "30 images are two batches, and it is for one of two norms"
    (record,) = gate.results()["records"]
    assert (record["about"]["property"], record["about"]["concern"]) == ("test_dark_images", "model")
    assert gate.results()["properties"][0]["value"] == record["values"]["value"] > 0.5
    assert "dark images" in (gate.results_folder / "report.html").read_text()

    written = {path: path.stat().st_mtime_ns for path in gate.results_folder.rglob("*.safetensors")}
    gate("-n2", *ASKED).assert_outcomes(passed=1)
    assert brightness_of(gate) == first
    assert all(path.stat().st_mtime_ns == before for path, before in written.items()), "nothing is measured twice"
    gate("-n2", "--fresh", *ASKED).assert_outcomes(passed=1)
    assert brightness_of(gate) == first
    assert any(path.stat().st_mtime_ns != before for path, before in written.items())

    conftest = gate.folder / "mine/conftest.py"
    conftest.write_text(conftest.read_text() + "# another version\n")
    gate("-n0", *ASKED).assert_outcomes(passed=1)
    assert len(brightness_of(gate)) == 4, "numbers of another file are others"


def test_killed_run_of_the_example_goes_on(with_example):
    """Killed after the first batch: it is not measured again, and the second one is."""
    gate = with_example
    conftest = gate.folder / "mine/conftest.py"
    wait = "time.sleep(60 * ('SLOW' in os.environ and given.indices[0] > 0))"
    slow = f"    import os, time, torch\n\n    {wait}\n"
    conftest.write_text(conftest.read_text().replace("    import torch\n", slow))
    process = subprocess.Popen(
        gate.command("-n0", *ASKED), cwd=gate.folder, env={**os.environ, "SLOW": "1"}, stdout=subprocess.DEVNULL
    )
    deadline = time.time() + 120
    while not brightness_of(gate):
        assert time.time() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (kept,) = brightness_of(gate).items()
    gate("-n0", *ASKED).assert_outcomes(passed=1)
    found = brightness_of(gate)
    assert len(found) == 2
    assert found[kept[0]] == kept[1]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        (
            '"least": least',
            '"least": least[:1]',
            "*got column 'least' of brightness of shape (1,), expected (20, ...)*",
        ),
        ('about("model")', 'about("models")', "*got @pytest.mark.about('models')*did you mean 'model'*"),
    ],
)
def test_mistakes_in_a_metric_end_in_a_sentence(with_example, wrong, right, message):
    for file in (with_example.folder / "mine").iterdir():
        if file.is_file():
            file.write_text(file.read_text().replace(wrong, right))
    result = with_example("-n0", *ASKED)
    assert result.ret != 0
    assert re.search(re.escape(message).replace(r"\*", ".*"), result.stdout.str() + result.stderr.str())


def test_two_metrics_of_one_name_are_refused():
    ours = METRICS["clever"]
    with pytest.raises(ValueError, match="got a second metric 'clever'"):
        metric_fixture(Metric(name="clever", doc="", row=ours.row, batch=lambda given: {}))
    assert METRICS["clever"] is ours


def test_modules_that_a_metric_imports_are_part_of_its_code():
    assert [file.name for file in METRICS["black_box"].sources()] == ["black_box.py", "square.py"]
    assert [file.name for file in METRICS["adversarial_distance"].sources()] == ["adversarial_distance.py", "traces.py"]
    lost = dataclasses.replace(METRICS["clever"], imports=("no_such_module",))
    with pytest.raises(ValueError, match="got imports='no_such_module' of the metric 'clever'"):
        lost.sources()


def test_needs_come_first_and_once():
    found = [one.name for one in with_needs([METRICS["exact_distance"], METRICS["anchored_clever"]])]
    assert len(found) == len(set(found))
    for name in found:
        assert all(found.index(one.name) < found.index(name) for one in METRICS[name].needs)


ALLOWED = {
    "baseline.py": "columns of results.json",
    "thresholds.py": "a table of thresholds.toml",
    "images.py": "draws the table of images",
    "image_table.py": "draws the table of images",
    "image_cards.py": "draws cards of images",
    "rows.py": "writes CLEVER as the field does",
    "scores.py": "draws scores",
    "ranked.py": "draws scores",
    "study.py": "the numbers of the study",
    "changes.py": "draws distances",
    "distances.py": "draws distances",
    "clever_fit.py": "draws scores",
}


def test_names_of_metrics_stand_in_their_own_files_only():
    """In code, not in comments and docstrings: what else knows a metric by name has to be changed for a new one."""
    names = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, METRICS))})(?![\w-])")
    mentioned = [
        f"{file.relative_to(ROOT)}:{token.lineno}: {token.name}"
        for folder in ("robustness_tests/harness", "robustness_tests/subjects", "reports")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file.parent.name != "fixtures" and file.name not in ALLOWED
        for token in mentions(file, names)
    ]
    assert not mentioned


def mentions(file, names):
    """Names and texts of a file in which a metric's name stands, but not its docstrings."""
    tree = ast.parse(file.read_text())
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        texts = {
            ast.Name: lambda node: node.id,
            ast.Attribute: lambda node: node.attr,
            ast.arg: lambda node: node.arg,
            ast.alias: lambda node: node.name,
            ast.Constant: lambda node: node.value if isinstance(node.value, str) and id(node) not in docs else "",
        }
        text = texts.get(type(node), lambda _: "")(node)
        if names.search(text):
            yield SimpleNamespace(lineno=getattr(node, "lineno", 0), name=text)
