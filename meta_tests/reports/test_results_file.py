"""results.json and JUnit XML as interfaces, and the reports that are made from the file alone."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import jsonschema
import pytest

from meta_tests.conftest import ROOT
from meta_tests.runs import (
    EVIL,
    RUN,
    image_record,
    model_record,
    records_of_images,
    records_of_models,
    results_of,
    run_of,
)
from reports.__main__ import main
from reports.images import ImageRow
from reports.junit import suite_properties
from reports.markdown import literal, table
from reports.pictures import Picture
from reports.results import Results
from reports.results_json import write_results
from reports.rows import Row
from robustness_tests.harness.records import Record

SCHEMA = json.loads((ROOT / "docs/results.schema.json").read_text())
LISTS = {"properties": Row, "images": ImageRow, "pictures": Picture, "records": Record}


@pytest.mark.parametrize("run", [RUN, run_of(models=(EVIL,), norms=("l1",))])
def test_results_follow_the_schema(run):
    records = [*records_of_images(run, 4), *records_of_models(run), image_record("crashed", norm="l1", image=9)]
    content = results_of(*records, run=run, status=1).to_json()
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    jsonschema.Draft202012Validator(SCHEMA).validate(results_of(run=run).to_json())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**content, "verdict": "perhaps"})


def test_every_field_is_in_schema_and_documentation():
    text = (ROOT / "docs/results.md").read_text()
    assert set(SCHEMA["properties"]) == {field.name for field in fields(Results)}
    for name, kind in {**LISTS, "": Results}.items():
        part = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0] if name else text.partition("\n## ")[0]
        for field in fields(kind):
            assert f"`{field.name}`" in part, f"{name}.{field.name} is not explained in docs/results.md"
            if name:
                assert field.name in SCHEMA["properties"][name]["items"]["properties"]


def test_junit_properties_are_documented():
    text = (ROOT / "docs/results.md").read_text()
    found = suite_properties(results_of(image_record()))
    assert found["verdict"] == "partial"
    for name in found:
        assert f"`robustness.{name}`" in text


def complaint(monkeypatch, capsys, folder, *arguments):
    """What `python -m reports` says when it ends with an error, in this process: the last line."""
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(["results.json", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def reports(*arguments, folder):
    command = [sys.executable, "-m", "reports", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_reports_are_made_from_the_file_alone(tmp_path):
    write_results(tmp_path / "results.json", results_of(*records_of_images(RUN, 6), *records_of_models(RUN), status=1))
    done = reports("results.json", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "results.html\nresults.md\n"), done.stderr
    page = (tmp_path / "results.html").read_text()
    assert "FAIL: robust against standard on digits, 2 images" in page
    assert page.count("<svg") >= 12
    assert (tmp_path / "results.md").read_text().startswith("## FAIL: robust against standard on digits")


@pytest.mark.slow
def test_two_runs_are_compared(tmp_path):
    """The second run's distances are the first one's, half as large."""
    old = [*records_of_images(RUN, 8), model_record("test_clean_accuracy")]
    new = [
        replace(one, values={**one.values, "distance": one.values["distance"] / 2}) if "image" in one.about else one
        for one in old
    ]
    new[-1] = model_record("test_clean_accuracy", "failed", {"value": 0.5, "threshold": 0.98})
    write_results(tmp_path / "a.json", results_of(*old))
    write_results(tmp_path / "b.json", results_of(*new, status=1))
    write_results(tmp_path / "c.json", results_of(*new, run=replace(RUN, seed=3), status=1))
    done = reports("a.json", "b.json", "c.json", "--html=out.html", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "out.html\nout.md\n"), done.stderr
    markdown = (tmp_path / "out.md").read_text()
    assert "| clean accuracy | 99.0% | 50.0% (failed) | 50.0% (failed) |" in markdown
    assert "| verdict | partial | fail | fail |" in markdown
    assert "c.json and a.json differ in seed: do not compare their numbers." in markdown
    distances = sorted(row.distance for row in results_of(*old).of("robust", "linf"))
    median = (distances[3] + distances[4]) / 2
    assert f"{median:.4g} to {median / 2:.4g}" in markdown
    page = (tmp_path / "out.html").read_text()
    assert page.count("<svg") == 8
    assert page.count('role="img"') == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{}", "JSON without a schema"),
        ('{"schema": 4}', "without verdict"),
        ("old", "incomplete"),
    ],
)
def test_what_is_no_results_file_ends_with_one_line(tmp_path, monkeypatch, capsys, content, message):
    if content == "old":
        whole = results_of(image_record()).to_json()
        del whole["passes"]
        content = json.dumps(whole)
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert message in complaint(monkeypatch, capsys, tmp_path)
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html=results.json"], "got results.json to write, which is one of the files to read"),
        (["--summary=results.json"], "got results.json to write, which is one of the files to read"),
        (["--html=x.md"], "got x.md for HTML and for the summary, expected two files"),
        (["--html=no/x.html"], "which cannot be written (No such file or directory)"),
    ],
)
def test_reports_write_over_nothing_that_is_read(tmp_path, monkeypatch, capsys, arguments, message):
    write_results(tmp_path / "results.json", results_of(image_record()))
    before = (tmp_path / "results.json").read_text()
    assert message in complaint(monkeypatch, capsys, tmp_path, *arguments)
    assert (tmp_path / "results.json").read_text() == before


def test_damaged_results_end_with_one_line(tmp_path, monkeypatch, capsys):
    whole = results_of(image_record()).to_json()
    for name, value in (("run", {}), ("finished", "soon"), ("seconds", "x"), ("versions", None)):
        (tmp_path / "results.json").write_text(json.dumps({**whole, name: value}))
        assert "damaged" in complaint(monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "<script>",
        "a|b",
        "*b*",
        "[x](y)",
        "@everybody",
        "#1",
        "`code`",
        "![i](j)",
        "a\nb",
        "https://a.b",
        "$x$",
        "www.a.b",
    ],
)
def test_markdown_shows_text_as_it_is(text):
    shown = literal(text)
    assert "\n" not in shown
    for sign in ("<", ">", "@", "$", "://", "www."):
        assert sign not in shown
    rows = table(("one", "two"), [(text, "x")]).split("\n")
    assert len(rows) == 3
    unescaped = rows[2].replace("\\|", "")
    assert unescaped.count("|") == 3
