"""A run in MLflow: the same numbers as in results.json, and nothing else."""

import json
import subprocess
import sys

import pytest

from meta_tests.conftest import ROOT
from meta_tests.runs import image_record, results_of, run_of
from reports import mlflow as ours
from reports.results import load_results
from reports.results_json import write_results


@pytest.fixture
def file(tmp_path):
    """A run with a violated property."""
    path = tmp_path / "results.json"
    found = results_of(image_record(model="robust", norm="l2"), run=run_of(("robust", "standard")))
    write_results(path, found)
    return path


def logged(*arguments):
    command = [sys.executable, "-m", "reports", "mlflow", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_numbers_are_those_of_the_file(file, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    # A server would need the whole package.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "runs").as_uri()
    done = logged(str(file), "--tracking-uri", store, "--experiment", "mine")
    assert not done.returncode, done.stderr
    client = mlflow.MlflowClient(tracking_uri=store)
    run = client.get_run(done.stdout.strip())
    results = load_results(file, "results.json")
    assert run.data.metrics == pytest.approx(ours.metrics_of(results))
    assert run.data.tags["verdict"] == results.verdict
    assert run.data.params["model"] == "robust"
    assert run.data.params["seed"] == str(results.run["seed"])
    names = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert names == {"results.json", "report.html"}
    assert client.get_experiment(run.info.experiment_id).name == "mine"


def test_names_and_figures(file):
    content = json.loads(file.read_text())
    found = ours.metrics_of(load_results(file, "results.json"))
    assert found["passes/forward"] == content["passes"]["forward"]
    assert sum(value for name, value in found.items() if name.startswith("properties/")) == len(content["properties"])
    for row in content["properties"]:
        if row["value"] is not None and row["norm"]:
            place = [row["property_name"].removeprefix("test_"), row["model"], row["norm"], row["epsilon"]]
            name = "/".join(filter(None, place))
            assert found[f"{name}/value"] == row["value"]


@pytest.mark.parametrize("content", ["{", '{"schema": 4}', None], ids=["damaged", "incomplete", "absent"])
def test_bad_file_is_one_line(tmp_path, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    pytest.importorskip("mlflow")
    done = logged(str(path))
    assert done.returncode == 2
    assert "error: got" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_package(monkeypatch, capsys, file):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SystemExit):
        ours.main([str(file)])
    assert "pip install 'robustness-gate[mlflow]'" in capsys.readouterr().err
