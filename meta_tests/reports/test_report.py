"""Reports: the same table everywhere, nothing run that is only shown, and a page that a real browser draws."""

import dataclasses
import json

import pytest

from meta_tests.runs import (
    EVIL,
    RUN,
    about_of,
    everything,
    gathered,
    image_record,
    model_record,
    records_of_images,
    records_of_models,
    results_of,
    run_of,
)
from reports.conclusions import conclusion, worst_images
from reports.figures import figures
from reports.markdown import summary as markdown_summary
from reports.page import body, facts, page
from reports.results import Results, headline
from reports.results_json import write_results
from reports.rows import HEADER, cells
from reports.summary import summarise
from robustness_tests.harness.records import Record, Records
from robustness_tests.harness.values import plain


def test_images_are_counted_by_property_model_and_norm():
    summary = summarise(
        RUN,
        gathered(
            image_record(image=0), image_record("xfailed", image=1), image_record("skipped", image=2), model_record()
        ),
        0,
    )
    model_row, image_row = summary.properties
    assert model_row.property_name == "test_clean_accuracy"
    assert (image_row.value, image_row.images, image_row.outcome) == (0.5, 2, "passed")
    assert (summary.passes, summary.measurements) == ({"forward": 9, "backward": 6}, {"measured": 3, "stored": 0})


def test_a_single_bad_image_is_a_bad_row():
    row = summarise(RUN, gathered(image_record(), image_record("failed", image=1)), 1).properties[0]
    assert (row.outcome, row.message) == ("failed", EVIL)


@pytest.mark.parametrize(
    ("status", "word"), [(0, "PASS"), (1, "FAIL"), (2, "INTERRUPTED"), (3, "INTERNAL ERROR"), (5, "NO TESTS")]
)
def test_headline_is_the_exit_status(status, word):
    summary = summarise(RUN, gathered(*everything()), status)
    assert headline(summary) == f"{word}: robust against standard on digits, 2 images"
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
    assert summary.properties[0].property_name == "test_zero"
    assert [row.title for row in summary.violated] == ["zero"]
    assert "zero</a>" in body(summary, tests=True).partition("<nav")[0]
    assert markdown_summary(summary).index("**zero**") < markdown_summary(summary).index("###")


def test_missing_tests_are_noted():
    records = everything()
    summary = summarise(RUN, gathered(*records, collected=len(records) + 2), 1)
    assert summary.notes == (f"Incomplete: 2 of {len(records) + 2} tests were not reported.",)


def test_comparison_shows_both_medians_and_the_interval_of_the_difference():
    values = {"value": 0.2, "reference_value": 0.1, "lower": 0.05, "upper": 0.15, "threshold": 0.05, "p_value": 1e-9}
    record = model_record("test_beats", values=values, norm="l2", reference="standard")
    summary = summarise(RUN, gathered(record), 0)
    found = dict(zip(HEADER, cells(summary.properties[0]), strict=True))
    assert (found["measured"], found["reference"]) == ("0.2", "0.1")
    assert found["interval"] == "difference +0.05 to +0.15"
    assert found["needed"] == "larger, p <= 0.05 (p = 1e-09)"


@pytest.mark.parametrize(
    "values", [{"p_value": 0.3}, {"examples": 5}, {"value": "text"}, {"stored": True}, {"lower": 1.0}]
)
def test_whatever_a_user_measures_is_drawn(values):
    records = [model_record("test_mine", values=values), model_record("test_mine", values=values, epsilon="small")]
    image = Record("a.py::test_mine[0]", "passed", "", 0.1, {"property": "test_mine", "image": 0}, values)
    summary = summarise(RUN, gathered(*records, image, *everything()), 0)
    page_of_it = body(summary, tests=True)
    assert page_of_it.count('id="property-') == len(summary.properties)
    assert "Tests of your own" in page_of_it
    assert "| mine |" in markdown_summary(summary)


def test_infinite_values_are_null(tmp_path):
    record = image_record(distance=plain(float("inf")), clever=plain(float("nan")))
    write_results(tmp_path / "results.json", results_of(record))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["records"][0]["values"]["distance"] is None
    assert not list(tmp_path.glob("*.partial"))


def test_names_and_messages_are_shown_and_not_run():
    run = run_of(models=(EVIL, f"{EVIL}2"), dataset=EVIL, class_names=(EVIL,) * 10)
    results = results_of(*records_of_images(run, 3), *records_of_models(run), model_record(EVIL), run=run, status=1)
    text = page(results, EVIL)
    assert text.count("<script") == 2, "the table's data, and ours"
    assert "&lt;script&gt;" in text
    summary = markdown_summary(results)
    assert "<script" not in summary
    assert "&lt;script&gt;" in summary


@pytest.fixture
def drawn():
    """The figures of a run by title: text alternatives and SVG of all panels."""

    def draw(*records, run=RUN):
        return {
            figure.title: (" ".join(one.text for one in figure.panels), " ".join(one.svg for one in figure.panels))
            for figure in figures(results_of(*records, run=run))
        }

    return draw


def test_scatter_marks_violations(drawn):
    records = [image_record(image=0), image_record("xfailed", image=1, clever=0.5), image_record("skipped", image=2)]
    text, svg = drawn(*records)["CLEVER against adversarial distance"]
    assert "1 of 3 scores above the diagonal, median of CLEVER / adversarial distance 0.33" in text
    for label in ("below the distance (1)", "above the distance (1)", "at the radius (1)", "L-infinity, robust"):
        assert label in svg
    assert drawn(*records)["CLEVER against adversarial distance"][1] == svg, "the same records, the same bytes"


def test_certified_accuracy_of_some_images_has_their_robust_accuracy_beside_it(drawn):
    """Robust accuracy of all images may be below the certified accuracy of a few."""
    about = {"model": "robust", "norm": "linf"}
    proved, attacked = about_of("test_certified_below_distance"), about_of("test_adversarial_example_is_real")
    values = {"certified": 0.01, "status": "certified"}
    certified = [Record(f"c{i}", "passed", about={**proved, **about, "image": i}, values=values) for i in range(3)]
    values = {"distance": 0.04, "status": "attacked"}
    found = [Record(f"a{i}", "passed", about={**attacked, **about, "image": i}, values=values) for i in range(3)]
    some = drawn(*certified[:2], *found)["Robust accuracy"][1]
    assert "certified accuracy, 2 images" in some
    assert "robust accuracy of the same" in some
    every = drawn(*certified, *found)["Robust accuracy"][1]
    assert "certified accuracy, 3 images" in every
    assert "robust accuracy of the same" not in every


def test_no_points_no_figure(drawn):
    assert drawn(model_record()) == {}


def test_every_figure_of_a_whole_run(drawn):
    found = drawn(*records_of_images(RUN, 30), *records_of_models(RUN))
    assert list(found) == [
        "Robust accuracy",
        "Adversarial distances",
        "Candidate minus reference",
        "CLEVER against adversarial distance",
        "Proved and attacked",
        "Has the attack converged?",
        "One CLEVER score in detail",
    ]
    for text, svg in found.values():
        assert svg.startswith("<svg")
        assert len(text) > 60
        # Colours are the page's, and a reader of the screen is told numbers.
        assert "var(--" in svg
        assert any(character.isdigit() for character in text)
        assert "mathdefault" not in svg
    assert "90% needed at 0.1" in found["Robust accuracy"][0]


def test_curves_are_what_the_numbers_say(drawn):
    """Distances 0.1, 0.2, 0.3 and one that is censored: the curve goes up by a quarter at each, and ends at 0.75."""
    about = {**about_of("test_adversarial_example_is_real"), "model": "robust", "norm": "linf"}
    records = [
        Record(f"a{i}", "passed", "", 0.1, {**about, "image": i}, {"status": "attacked", "distance": distance})
        for i, distance in enumerate([0.1, 0.2, 0.3])
    ]
    records.append(Record("a3", "skipped", "", 0.1, {**about, "image": 3}, {"status": "censored", "distance": None}))
    found = drawn(*records, run=run_of(models=("robust",), norms=("linf",)))
    assert "half of 4 images of robust are attacked within 0.2." in found["Adversarial distances"][0]
    text = found["Robust accuracy"][0]
    assert "keeps the label of 100% of 4 images as they are, and of 75% at 0.15" in text


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(drawn):
    run = run_of(models=("_a$x$", "b"))
    found = drawn(*records_of_images(run, 3), run=run)
    assert "_a$x$" in found["Adversarial distances"][1]


def test_brackets_with_scores_and_exact_distances(drawn):
    about = {**about_of("test_certified_below_distance"), "model": "robust", "norm": "linf", "image": 3}
    attack = {**about_of("test_adversarial_example_is_real"), "model": "robust", "norm": "linf", "image": 3}
    attacked = Record("b", "passed", about=attack, values={"distance": 0.04, "status": "attacked"})
    values = {"certified": 0.01, "exact": 0.039}
    svg = drawn(Record("a", "passed", about=about, values=values), attacked, image_record(image=3, distance=0.04))
    for label in ("certified to adversarial", "CLEVER", "exact"):
        assert label in svg["Proved and attacked"][1]
    without = drawn(Record("a", "passed", about=about, values={**values, "exact": None}), attacked)
    assert "exact" not in without["Proved and attacked"][1]
    assert "CLEVER" not in without["Proved and attacked"][1]


@pytest.mark.slow
def test_many_points_are_one_picture(drawn):
    svg = drawn(*records_of_images(RUN, 600))["CLEVER against adversarial distance"][1]
    assert "<image" in svg
    assert svg.count("<use") < 400


def test_rows_of_images_join_their_tests():
    results = results_of(*records_of_images(RUN, 5))
    assert len(results.images) == 5 * 2 * 2
    assert [row.key for row in results.images[:6:5]] == [("robust", "linf", 0), ("robust", "l2", 0)]
    for row in results.images:
        assert row.certified == pytest.approx(row.distance / 4)
        assert row.ratio == pytest.approx(row.clever / row.distance)
        assert row.verdict == ("violation" if row.clever > row.distance else "passed")


@pytest.mark.parametrize(
    ("outcomes", "status", "verdict"),
    [
        (("passed", "passed"), "attacked", "passed"),
        (("failed", "xfailed"), "attacked", "failed"),
        (("passed", "xfailed"), "attacked", "violation"),
        (("skipped", "skipped"), "misclassified", "misclassified"),
        (("skipped", "skipped"), "censored", "not judged"),
        (("crashed", "passed"), "attacked", "error"),
        (("error", "failed"), "attacked", "failed"),
        (("error", "xfailed"), "attacked", "error"),
    ],
)
def test_verdict_of_an_image_is_the_worst_of_its_tests(outcomes, status, verdict):
    about = {"model": "robust", "norm": "linf", "image": 0}
    names = ("test_adversarial_example_is_real", "test_clever_below_distance")
    records = [
        Record(name, outcome, f"why {name}", 0.1, {**about_of(name), **about}, {"status": status})
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    (row,) = results_of(*records).images
    assert row.verdict == verdict


def test_answers_say_what_the_numbers_say():
    shares = {"value": 0.96, "images": 100, "median_ratio": 0.88, "threshold": 0.95}
    share = model_record("test_share_of_clever_below_distance", values=shares, norm="linf")
    better = {"value": 0.2, "reference_value": 0.1, "p_value": 1e-9, "threshold": 0.05, "images": 100}
    beats = model_record("test_candidate_beats_reference_in_adversarial_distance", values=better, norm="linf")
    results = results_of(share, beats)
    assert conclusion(results, "trust") == (
        "CLEVER is a lower bound for most images here, and wrong for some (required: 95% of images): in linf the "
        "score of robust exceeds the adversarial distance or is missing for 4 of 100 images, and the median of CLEVER "
        "/ distance is 0.88 (tight)."
    )
    share = model_record("test_share_of_clever_below_distance", values={**shares, "value": 1.0}, norm="linf")
    probed = model_record("test_gradients_are_informative", values={"value": 1.0, "images": 8}, norm="linf")
    text = conclusion(results_of(share, probed), "trust")
    assert text.startswith("No score contradicts CLEVER as a lower bound here: ")
    assert text.endswith("Of robust, an attack without gradients found nothing much nearer (8 images).")
    assert conclusion(results, "requirement") == (
        "robust is shown to be better than standard in 1 of 1 comparisons on the same images: adversarial distance, "
        "linf 0.2 against 0.1."
    )
    clever = model_record("test_candidate_beats_reference_in_clever", values={**better, "p_value": 0.04}, norm="linf")
    noise = model_record("test_candidate_beats_reference_in_noise_accuracy", values={**better, "p_value": 0.03})
    several = results_of(beats, clever, noise)
    assert [row.holm_p_value for row in several.properties] == pytest.approx([3e-9, 0.06, 0.06])
    assert conclusion(several, "requirement").endswith("With Holm's correction for all comparisons, 1 of these 3 hold.")
    bad = results_of(
        model_record("test_share_of_clever_below_distance", "failed", shares, norm="linf"),
        model_record("test_candidate_beats_reference_in_adversarial_distance", "failed", better, norm="linf"),
        model_record("test_certified_below_distance", "failed", {}, norm="linf"),
        status=1,
    )
    assert "CLEVER cannot be trusted here" in conclusion(bad, "trust")
    assert "A number of this suite is wrong, not the model: certified below distance, linf." in conclusion(bad, "trust")
    assert conclusion(bad, "requirement") == "robust is shown to be better than standard in 0 of 1 comparisons."


def test_where_to_look_after_a_failure():
    """What the test has named; of a property of images, those that went wrong; nothing for what else a user says."""
    named = model_record("test_mine", "failed", {"value": 0.5, "worst": [7, 4, 9, 1]})
    results = results_of(named, status=1)
    assert worst_images(results, results.properties[0]) == [7, 4, 9]
    wrong = [image_record("failed" if image in (3, 5) else "passed", image=image) for image in range(8)]
    results = results_of(*wrong, status=1)
    assert worst_images(results, results.properties[0]) == [3, 5]
    for worst in ("abc", [1.5], ["3"], None, [True], 5):
        odd = model_record("test_mine", "failed", {"value": 0.5, "worst": worst, "misclassified": 3, "shares": "x"})
        results = results_of(odd, status=1)
        assert worst_images(results, results.properties[0]) == []
        assert "**mine**" in markdown_summary(results)
        page(results, "x")


@pytest.mark.parametrize("odd", [{"forward": "x", "backward": None, "stored": True}, {"forward": 1, "stored": 0}])
def test_passes_are_those_of_measurements(odd):
    results = results_of(image_record(), model_record("test_mine", values=odd))
    assert results.passes == {"forward": 3, "backward": 2}


def test_errors_say_nothing_about_the_model():
    """A test that ran out of memory is no proof of masked gradients."""
    names = ("test_gradients_are_informative", "test_attack_has_converged", "test_certified_below_distance")
    results = results_of(*(model_record(name, "error", {}, norm="linf") for name in names), status=1)
    assert conclusion(results, "trust") == ""
    assert not results.violated
    assert len(results.unjudged) == 3
    assert "could not be tested:" in markdown_summary(results)


@pytest.mark.parametrize(
    ("commit", "shown"),
    [("0123456789abcdef", "0123456789ab"), ("0123456789abcdef+", "0123456789ab+"), (None, "not in git")],
)
def test_commit_is_short_and_says_whether_files_have_changed(commit, shown):
    results = dataclasses.replace(results_of(model_record()), commit=commit)
    assert facts(results)["Commit"] == shown


def test_infinite_medians_are_shown_as_what_they_are():
    better = {"value": None, "reference_value": 0.1, "p_value": 1e-9, "threshold": 0.05, "images": 100}
    results = results_of(
        model_record("test_candidate_beats_reference_in_adversarial_distance", values=better, norm="linf")
    )
    assert "adversarial distance, linf beyond what attacks found against 0.1" in conclusion(results, "requirement")
    assert "| beyond the attacks |" in markdown_summary(results)


@pytest.mark.slow
def test_results_are_the_same_from_the_file(tmp_path):
    results = results_of(*records_of_images(RUN, 5), *records_of_models(RUN), status=1)
    write_results(tmp_path / "results.json", results)
    content = json.loads((tmp_path / "results.json").read_text())
    again = Results.from_json(content)
    assert again.to_json() == content
    assert page(again, "x") == page(results, "x")
    assert markdown_summary(again) == markdown_summary(results)
    newer = {**content, "new": 1, "properties": [{**row, "new": 2} for row in content["properties"]]}
    assert Results.from_json(newer).to_json() == content


def test_run_that_asks_nothing_of_the_model_is_no_pass(monkeypatch):
    """All that could be judged was skipped: the numbers of the suite are right, and nothing is known of the model."""
    monkeypatch.setattr("reports.summary.untested", lambda *_: [])
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
