"""Reports: the same table everywhere, nothing run that is only shown, and a page that a real browser draws."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports import figures, html
from reports.results_json import results, write_results
from reports.summary import HEADER, cells, headline, properties_of_the_gate, summarise
from robustness_tests.harness.records import Record, Records
from robustness_tests.harness.run import Run
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.harness.values import plain
from robustness_tests.subjects.sources import Source

RUN = Run(
    model="robust",
    against="standard",
    dataset="digits",
    sources={name: Source("bundled", name, name) for name in ("robust", "standard")},
    dataset_source=Source("bundled", "digits", "digits"),
    data_dir=Path("data"),
    test_images=360,
    values=64,
    images=2,
    clever_radius={"linf": 0.25, "l2": 1.25, "l1": 6.0},
    effort="default",
    norms=("linf", "l2"),
    certify="auto",
    batch_sizes={"robust": 20, "standard": 20},
    digests={},
    remarks=(),
    device="cpu",
    seed=0,
    thresholds=load_thresholds(None),
    results=Path("results"),
    fresh=False,
    started=0.0,
)
EVIL = "<script>alert(1)</script>"


def image_record(outcome="passed", model="robust", norm="linf", image=0, **values):
    about = {"property": "test_clever_below_distance", "model": model, "norm": norm, "image": image}
    costs = {"forward": 3, "backward": 2, "stored": False}
    defaults = {"clever": 0.1, "distance": 0.3, **costs}
    return Record(f"a.py::test[{model}-{norm}-{image}]", outcome, EVIL, 0.1, about, {**defaults, **values})


def model_record(name="test_clean_accuracy", outcome="passed", values=None, **about):
    values = {"value": 0.99, "low": 0.95, "high": 1.0, "threshold": 0.98, "images": 100} if values is None else values
    return Record(f"a.py::{name}[{about}]", outcome, "", 0.1, {"property": name, "model": "robust", **about}, values)


def gathered(*found, collected=None):
    return Records(len(found) if collected is None else collected, 0, {record.test: record for record in found})


def test_images_are_counted_by_property_model_and_norm():
    summary = summarise(
        RUN,
        gathered(
            image_record(image=0), image_record("xfailed", image=1), image_record("skipped", image=2), model_record()
        ),
        0,
    )
    model_row, image_row = summary.rows
    assert model_row.property_name == "test_clean_accuracy"
    assert (image_row.value, image_row.images, image_row.outcome) == (0.5, 2, "passed")
    assert (summary.forward, summary.backward, summary.measured) == (9, 6, 3)


def test_a_single_bad_image_is_a_bad_row():
    row = summarise(RUN, gathered(image_record(), image_record("failed", image=1)), 1).rows[0]
    assert (row.outcome, row.message) == ("failed", EVIL)


def everything():
    """A record of every property of the gate."""
    return [model_record(name) for name in properties_of_the_gate()]


@pytest.mark.parametrize(
    ("status", "word"), [(0, "PASS"), (1, "FAIL"), (2, "INTERRUPTED"), (3, "INTERNAL ERROR"), (5, "NO TESTS")]
)
def test_headline_is_the_exit_status(status, word):
    summary = summarise(RUN, gathered(*everything()), status)
    assert headline(RUN, summary) == f"{word}: robust against standard on digits, 2 images"
    assert summary.notes == ()


def test_a_pass_of_some_properties_is_no_pass():
    some = everything()[1:]
    summary = summarise(RUN, gathered(*some), 0)
    assert summary.verdict == "partial"
    assert "Partial: some properties (" in summary.notes[0]
    left_out = Records(len(everything()), 5, {record.test: record for record in everything()})
    assert summarise(RUN, left_out, 0).verdict == "partial"
    assert "Partial: 5 tests were left out" in summarise(RUN, left_out, 0).notes[0]
    assert summarise(RUN, left_out, 1).verdict == "fail"


def test_what_is_violated_is_said_first():
    records = everything()
    records.append(model_record("test_zero", "failed"))
    summary = summarise(RUN, gathered(*records), 1)
    assert summary.rows[0].property_name == "test_zero"
    assert summary.notes == ("Violated: zero.",)


def test_missing_tests_are_noted():
    records = everything()
    summary = summarise(RUN, gathered(*records, collected=len(records) + 2), 1)
    assert summary.notes == (f"Incomplete: 2 of {len(records) + 2} tests were not reported.",)


def test_comparison_shows_both_medians_and_the_interval_of_the_difference():
    values = {"value": 0.2, "reference_value": 0.1, "low": 0.05, "high": 0.15, "threshold": 0.05, "p_value": 1e-9}
    record = model_record("test_beats", values=values, norm="l2", reference="standard")
    summary = summarise(RUN, gathered(record), 0)
    found = dict(zip(HEADER, cells(summary.rows[0]), strict=True))
    assert found["measured"] == "0.2000, standard 0.1000"
    assert found["interval"] == "difference +0.0500 to +0.1500"
    assert found["needed"] == "larger, p <= 0.05 (p = 1e-09)"


@pytest.mark.parametrize(
    "values", [{"p_value": 0.3}, {"examples": 5}, {"value": "text"}, {"stored": True}, {"low": 1.0}]
)
def test_whatever_a_user_measures_is_drawn(values):
    records = [model_record("test_mine", values=values), model_record("test_mine", values=values, epsilon="small")]
    image = Record("a.py::test_mine[0]", "passed", "", 0.1, {"property": "test_mine", "image": 0}, values)
    summary = summarise(RUN, gathered(*records, image, *everything()), 0)
    assert html.table(summary).count("<tr") == 1 + len(summary.rows)


def test_infinite_values_are_null(tmp_path):
    record = image_record(distance=plain(float("inf")), clever=plain(float("nan")))
    records = gathered(record)
    write_results(tmp_path / "results.json", results(RUN, records, summarise(RUN, records, 0)))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["records"][0]["values"]["distance"] is None
    assert not list(tmp_path.glob("*.partial"))


def test_names_and_messages_are_shown_and_not_run():
    records = gathered(image_record("failed", model=EVIL), model_record(EVIL))
    summary = summarise(RUN, records, 1)
    page = html.verdict(RUN, summary) + html.table(summary) + html.figure("t", EVIL, "<svg></svg>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_columns_sort_as_text_as_they_do_as_numbers():
    values = [0.0001, 0.02, 3.5, 12.0]
    texts = [html.fixed_width(value) for value in values]
    assert texts == sorted(texts)


def test_scatter_marks_violations():
    records = [image_record(image=0), image_record("xfailed", image=1, clever=0.5), image_record("skipped", image=2)]
    svg = figures.scatter(RUN, records)
    assert svg.startswith("<svg")
    for label in ("robust (1)", "robust, above the distance (1)", "robust, at the radius (1)", "L-infinity"):
        assert label in svg
    assert figures.scatter(RUN, records) == svg, "the same records, the same bytes"


def test_no_points_no_figure():
    assert figures.scatter(RUN, [model_record()]) is None
    assert figures.distances(RUN, [model_record()]) is None
    assert figures.brackets(RUN, [model_record()]) is None


def test_brackets_with_scores_and_exact_distances():
    about = {"property": "test_certified_below_distance", "model": "robust", "norm": "linf", "image": 3}
    values = {"certified": 0.01, "distance": 0.04, "exact": 0.039}
    records = [Record("a", "passed", about=about, values=values), image_record(image=3)]
    svg = figures.brackets(RUN, records)
    for label in ("robust: proved to attacked", "robust: CLEVER", "robust: exact"):
        assert label in svg
    without = figures.brackets(RUN, [Record("a", "passed", about=about, values={**values, "exact": None})])
    assert "exact" not in without
    assert "CLEVER" not in without


@pytest.fixture
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or pytest.skip("needs chromium")


def test_a_browser_draws_the_report(gate, browser, tmp_path):
    assert gate("-n2", "--quick", "--norms", "linf", "--certify", "auto").ret == 0
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
        (gate.results_folder / "report.html").as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr, "the page reports an error"
    page = shown.stdout
    assert "PASS (quick): robust against standard on digits, 20 images" in page
    assert page.count("<svg") == 3
    assert page.index("PASS (quick): robust") < page.index('class="robustness-table"') < page.index("<svg")
    # pytest-html draws its rows by script: every test is one, with our columns.
    assert len(re.findall(r'<td class="col-testId">', page)) == len(gate.results()["records"])
    assert re.search(r'<td class="col-distance"> *0\.\d{4}<', page)


def test_run_that_asks_nothing_of_the_model_is_no_pass(monkeypatch):
    """All that could be judged was skipped: the numbers of the suite are right, and nothing is known of the model."""
    monkeypatch.setattr("reports.summary.untested", lambda _: [])
    skipped = [
        model_record(name, "skipped") for name in ("test_clean_accuracy", "test_candidate_beats_reference_in_clever")
    ]
    summary = summarise(RUN, gathered(image_record(), *skipped), 0)
    assert summary.verdict == "partial"
    assert any("Nothing was asked of the model" in note for note in summary.notes)
    asked = summarise(RUN, gathered(image_record(), *skipped, model_record("test_noise_accuracy", norm="l2")), 0)
    assert asked.verdict == "pass"
    assert not any("Nothing was asked" in note for note in asked.notes)
    assert summarise(RUN, gathered(image_record("failed"), *skipped), 1).verdict == "fail"
