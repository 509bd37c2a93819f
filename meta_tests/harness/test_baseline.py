"""The last release: what fell is found, on the same images, and what cannot be compared is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_tests.runs import RUN, model_record, records_of_images, results_of, run_of
from metrics import statistics
from reports.results_json import write_results
from robustness_tests.harness.baseline import check_baseline, load_baseline
from robustness_tests.harness.measured import values_of
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.test_baseline import assert_median_has_not_fallen, assert_share_has_not_fallen


@pytest.fixture
def last(tmp_path):
    """A baseline of five images that were never measured."""

    def write(run=RUN, *more):
        write_results(tmp_path / "results.json", results_of(*records_of_images(run, 5), *more, run=run))
        return load_baseline(tmp_path / "results.json", "last.json")

    return write


def comparable(baseline, **changes):
    same = {
        "dataset": "digits",
        "effort": "default",
        "seed": 0,
        "sampling": "first",
        "norms": ("linf", "l2"),
        "image_digests": (),
        "clever_radius": RUN.clever_radius,
    }
    check_baseline(baseline, **{**same, **changes})


def test_baseline_knows_its_candidate_only(last):
    noise = model_record(
        "test_noise_accuracy", values={"value": 0.5, "images": 2, "shares": [1.0, 0.0]}, norm="l2", epsilon="1.60"
    )
    baseline = last(RUN, noise)
    found = {row.image: row for row in results_of(*records_of_images(RUN, 5)).of("robust", "linf")}
    assert len(baseline.images) == 10
    for image, row in found.items():
        assert baseline.distance("linf", image) == row.distance
        assert baseline.clever("linf", image) == row.clever
        assert baseline.certified("linf", image) == row.certified
    assert baseline.distance("l1", 0) is None
    assert baseline.noise_shares("l2", "1.6") == [1.0, 0.0], "epsilons are numbers"
    assert baseline.noise_shares("l2", "2.8") == []
    assert baseline.value("test_noise_accuracy", "l2", "1.6", images=2, reference=None) == 0.5
    assert baseline.value("test_noise_accuracy", "l2", "1.6", images=3, reference=None) is None, "of other images"


def test_censored_and_saturated_are_infinite(last):
    baseline = replace(
        last(),
        images={("l2", 0): {"status": "censored", "distance": None, "clever": 1.0, "clever_status": "saturated"}},
    )
    assert (baseline.distance("l2", 0), baseline.clever("l2", 0)) == (np.inf, np.inf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cifar10"}, "measured on 'digits', expected one of 'digits'|measured on 'digits'"),
        ({"effort": "quick"}, "measured with effort default, expected quick, as in this run"),
        ({"seed": 1}, "measured with seed 0, expected 1"),
        ({"norms": ("l1",)}, "which has no image in l1, expected one of the norms of this run"),
        (
            {"clever_radius": {"linf": 0.5, "l2": 1.25}},
            "radius is 0.25 in linf, expected 0.5: run with --clever-radius linf=0.25",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(last, changes, message):
    baseline = last()
    comparable(baseline)
    with pytest.raises(ValueError, match=message):
        comparable(baseline, **changes)


def test_other_images_of_the_same_numbers_are_refused(last):
    baseline = last(replace(RUN, image_digests=("a", "b", "c")))
    comparable(baseline, image_digests=("a", "b", "c", "d"))
    comparable(baseline, image_digests=("a",))
    with pytest.raises(ValueError, match="whose image 00001 is not that of 'digits' today"):
        comparable(baseline, image_digests=("a", "x", "c"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run",), {}),
        (("run", "clever_radius"), {"linf": "x"}),
        (("run", "image_digests"), None),
        (("run", "seed"), "x"),
        (("properties",), [3]),
        (("images",), [{"model": "robust"}]),
        (("images", 0, "distance"), "far"),
        (("images", 0, "image"), None),
        (("records", 0, "about"), None),
        (("finished",), "yesterday"),
        (("finished",), ["yesterday"]),
    ],
)
def test_damaged_baseline_is_refused(tmp_path, path, value):
    content = results_of(*records_of_images(RUN, 2)).to_json()
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (tmp_path / "last.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="which is damaged"):
        load_baseline(tmp_path / "last.json", "last.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("no json", "is not JSON"),
        ("[1]", "JSON without a schema"),
        ('{"a": 1}', "JSON without a schema"),
        ('{"schema": 1}', "of schema 1, expected 4: run the model of that release once more"),
        ('{"schema": 4, "verdict": "pass"}', "without finished, run, properties, images, records"),
        ("\xff\xfe", "is not JSON"),
        ('{"schema": NaN}', "NaN is no number"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_results_file_is_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load_baseline(path, "last.json")


def pairs_of(now, then):
    return dict(enumerate(zip(now, then, strict=True)))


def judged(check, pairs, **thresholds):
    """What a check has measured, and its complaint."""
    found = {}
    baseline = type("Baseline", (), {"model": "old"})

    def measured(*own, **known):
        found.update(values_of(*own, **known))

    try:
        check(pairs, "it", baseline, replace(load_thresholds(None), **thresholds), measured)
    except AssertionError as error:
        return found, str(error)
    return found, ""


def test_median_may_fall_by_its_tolerance_and_no_further():
    then = np.linspace(1, 2, 21)
    for factor, holds in ((1.0, True), (0.951, True), (0.949, False), (2.0, True)):
        found, complaint = judged(assert_median_has_not_fallen, pairs_of(factor * then, then))
        assert (complaint == "") is holds
        assert found["value"] == pytest.approx(1.5 * factor)
        assert (found["baseline_value"], found["threshold"]) == (1.5, pytest.approx(1.425))
        assert found["difference"] == pytest.approx(1.5 * (factor - 1))
        assert found["lower"] <= found["difference"] <= found["upper"]
    assert (
        "median it 1.4235, in the last release (old) 1.5000 on the same 21 images: lower by 5.1%"
        in judged(assert_median_has_not_fallen, pairs_of(0.949 * then, then))[1]
    )


def test_infinite_distances_count_as_large():
    infinite = float("inf")
    assert judged(assert_median_has_not_fallen, pairs_of([infinite] * 5, [infinite] * 5))[1] == ""
    assert "lower by 100.0%" in judged(assert_median_has_not_fallen, pairs_of([1.0] * 5, [infinite] * 5))[1]
    assert judged(assert_median_has_not_fallen, pairs_of([infinite] * 5, [1.0] * 5))[1] == ""


def test_share_may_fall_by_its_tolerance_and_no_further():
    for lost, holds in ((0, True), (2, True), (3, False)):
        found, complaint = judged(assert_share_has_not_fallen, pairs_of(np.arange(100) >= lost, [True] * 100))
        assert found["worst"] == list(range(lost))
        assert (complaint == "") is holds
        assert (found["value"], found["baseline_value"]) == (1 - lost / 100, 1.0)
        assert found["lower"] < found["difference"] == pytest.approx(-lost / 100)
        assert found["difference"] < found["upper"]
    # A gain on another image makes up for a loss.
    now, then = np.arange(100) >= 3, abs(np.arange(100) - 4) > 1
    assert judged(assert_share_has_not_fallen, pairs_of(now, then))[1] == ""


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_interval_of_a_mean_difference_holds_it_and_turns_with_its_sign(pairs):
    ours, theirs = zip(*pairs, strict=True)
    found, turned = statistics.mean_difference(ours, theirs), statistics.mean_difference(theirs, ours)
    assert found.value == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
    assert -1 <= found.lower <= found.value <= found.upper <= 1
    assert (turned.lower, turned.upper) == (pytest.approx(-found.upper), pytest.approx(-found.lower))


def test_interval_of_a_mean_difference_covers():
    """Simulated: images that keep, lose or gain their label; 95 % or more of the intervals hold the true difference."""
    random = np.random.default_rng(0)
    for gain, loss in ((0.0, 0.02), (0.1, 0.1), (0.05, 0.3)):
        hits = 0
        for _ in range(300):
            kinds = random.choice(3, size=60, p=[gain, loss, 1 - gain - loss])
            now, then = np.where(kinds == 0, 1.0, 0.0), np.where(kinds == 1, 1.0, 0.0)
            found = statistics.mean_difference(now, then)
            hits += found.lower <= gain - loss <= found.upper
        assert hits >= 285


@pytest.mark.parametrize("pairs", [([], []), ([1.0], [1.0, 0.0]), ([1.5], [0.0]), ([0.0], [-0.1]), ([np.nan], [0.0])])
def test_mean_difference_refuses_what_is_no_share(pairs):
    with pytest.raises(ValueError, match="expected"):
        statistics.mean_difference(*pairs)


def test_a_worse_model_fails_and_the_same_one_passes(gate, monkeypatch):
    """`standard` as the successor of `robust`: tests, column, figure, notes, Markdown, JUnit."""
    step = gate.folder / "step.md"
    step.write_text("before\n")
    some = "real or clever_below or clean or robust_accuracy or distance_since or clever_since"
    few = ("--quick", "--images", "4", "--batch-size", "4", "--norms", "linf", "-k", some)
    gate("-n0", *few, "--against", "robust")
    last = gate.results()
    assert last["baseline"] is None
    assert not any("since_baseline" in record["test"] for record in last["records"])
    (gate.folder / "last.json").write_text(json.dumps(last))

    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    options = ("--baseline=last.json", "--summary=new.md", "--junitxml=junit.xml")
    result = gate("-n2", *few, "--model", "standard", "--against", "standard", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    content = gate.results()
    rows = {row["property_name"]: row for row in content["properties"] if row["norm"] == "linf" or not row["norm"]}
    fell = rows["test_adversarial_distance_since_baseline"]
    assert fell["outcome"] == "failed"
    assert fell["value"] < 0.95 * fell["baseline_value"]
    assert fell["difference"] < 0
    assert "in the last release (robust)" in fell["message"]
    assert rows["test_clever_since_baseline"]["outcome"] == "failed"
    assert rows["test_clean_accuracy_since_baseline"]["outcome"] == "passed"
    for name in ("test_clean_accuracy", "test_robust_accuracy"):
        old = {row["epsilon"]: row["value"] for row in last["properties"] if row["property_name"] == name}
        new = {row["epsilon"]: row["baseline_value"] for row in content["properties"] if row["property_name"] == name}
        assert new == old
    assert content["baseline"]["model"] == "robust"
    page = (gate.results_folder / "report.html").read_text()
    assert "Change since the last release" in page
    assert "numbers have fallen by more than their tolerance since robust of" in page
    markdown = (gate.folder / "new.md").read_text()
    assert markdown.startswith("## FAIL (quick): standard on digits, 4 images")
    assert step.read_text() == "before\n" + markdown
    assert 'name="robustness.baseline" value="last.json"' in (gate.folder / "junit.xml").read_text()

    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(gate.folder))
    result = gate("-n0", *few, "--against", "robust", "--baseline=last.json")
    result.stdout.fnmatch_lines(["no summary in *: Is a directory", "FAIL (quick)*"])
    unchanged = [row for row in gate.results()["properties"] if row["property_name"].endswith("_since_baseline")]
    # Nothing is certified here.
    assert {row["property_name"] for row in unchanged if row["outcome"] != "passed"} == {
        "test_certified_distance_since_baseline"
    }
    assert all(row["value"] == row["baseline_value"] for row in unchanged)


def test_baseline_without_workers(gate):
    """A last release whose distances were all larger: each measured number has fallen, and JUnit says against what."""
    run = run_of(("old",), effort="quick", norms=("linf",), images=4)
    larger = [replace(one, values={**one.values, "distance": 5.0, "clever": 4.0}) for one in records_of_images(run, 4)]
    write_results(gate.folder / "last.json", results_of(*larger, run=run))
    options = (
        "--quick",
        "--images",
        "4",
        "--batch-size",
        "4",
        "--norms",
        "linf",
        "--baseline=last.json",
        "--junitxml=junit.xml",
    )
    assert gate("-n0", *options, "-k", "distance_since or clever_since").ret == 1
    rows = {row["property_name"]: row for row in gate.results()["properties"]}
    for name, before in (("adversarial_distance", 5.0), ("clever", 4.0)):
        row = rows[f"test_{name}_since_baseline"]
        assert (row["outcome"], row["baseline_value"], row["threshold"]) == ("failed", before, 0.95 * before)
    assert 'name="robustness.baseline" value="last.json"' in (gate.folder / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline=none.json"], "--baseline: got 'none.json', which cannot be read (No such file or directory)"),
        (
            ["--baseline=last.json", "--quick"],
            "got 'last.json', measured with effort default, expected quick",
        ),
        (["--baseline=robustness-results/results.json"], "which this run writes over, expected a copy of it elsewhere"),
        (["--summary=robustness-results/report.html"], "the report.html of this run, expected another file"),
        (["--baseline=last.json", "--summary=last.json"], "the baseline of this run, expected another file"),
        (["--summary=no/summary.md"], "--summary: got 'no/summary.md', expected a file in a folder that is there"),
    ],
)
def test_bad_baseline_is_a_usage_error(gate, options, message):
    last = results_of(*records_of_images(run_of(), 3))
    write_results(gate.folder / "last.json", last)
    write_results(gate.results_folder / "results.json", last)
    before = (gate.results_folder / "results.json").read_text()
    result = gate(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert (gate.results_folder / "results.json").read_text() == before
    assert len(list(gate.results_folder.iterdir())) == 1


def test_report_that_cannot_be_drawn_takes_nothing_with_it(gate):
    """The verdict, results.json and the rows of pytest-html are there; the terminal says what is missing."""
    page = gate.folder / "reports/page.py"
    page.write_text(page.read_text().replace("    drawn = figures(results)\n", "    drawn = 1 / 0\n"))
    result = gate("-n0", "--quick", "--images", "2", "--norms", "linf", "-k", "clean_accuracy")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["report.html is not whole: ZeroDivisionError*", "PARTIAL (quick)*"])
    assert gate.results()["verdict"] == "partial"
    assert "test_clean_accuracy" in (gate.results_folder / "report.html").read_text()
