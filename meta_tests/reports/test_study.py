"""The page of the study: its numbers from the rows of images, its figures as files of their own."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from meta_tests.runs import records_of_images, results_of, run_of
from reports import study
from reports.results_json import write_results

RUN = run_of(("robust", "standard"), norms=("linf", "l2"), images=40)


@pytest.fixture(scope="module")
def results():
    return results_of(*records_of_images(RUN, 40), run=RUN)


def test_claims_are_those_of_the_images(results):
    """Medians of images that both models classify correctly; shares of those that were judged."""
    here = {claim.what: claim.here for claim in study.claims(results)}
    distances = np.array([[row.distance for row in results.of(model, "linf")] for model in results.models])
    scores = np.array([[row.clever for row in results.of(model, "linf")] for model in results.models])
    ours, theirs = np.median(distances, axis=1)
    assert here["median adversarial distance, linf"] == f"{ours:.4g} / {theirs:.4g} = {ours / theirs:.1f}"
    below = (scores <= distances).mean(axis=1)
    assert here["images with CLEVER <= adversarial distance, linf"] == " / ".join(f"{one:.1%} of 40" for one in below)
    ratios = np.median(scores / distances, axis=1)
    assert here["median of CLEVER / adversarial distance, linf"] == " / ".join(f"{one:.2f}" for one in ratios)
    robust = (distances > 2 / 255).mean(axis=1)
    assert here["robust accuracy at 2/255, linf"] == " / ".join(f"{one:.1%}" for one in robust)
    published = {claim.what: (claim.study, claim.follow_up) for claim in study.claims(results)}
    assert published.keys() >= study.PUBLISHED.keys(), "a published number has no number of ours beside it"


def test_misclassified_images_are_left_out_but_not_of_robust_accuracy(results):
    first = results.images[0]
    wrong = replace(first, status="misclassified", distance=0.0, clever=None, ratio=None, clever_verdict="skipped")
    here = {claim.what: claim.here for claim in study.claims(replace(results, images=(wrong, *results.images[1:])))}
    before = {claim.what: claim.here for claim in study.claims(results)}
    rest = [[row.distance for row in results.of(model, "linf") if row.image != first.image] for model in results.models]
    ours, theirs = (np.median(side) for side in rest)
    assert here["median adversarial distance, linf"] == f"{ours:.4g} / {theirs:.4g} = {ours / theirs:.1f}"
    assert here["robust accuracy at 1/255, linf"] != before["robust accuracy at 1/255, linf"]
    # The same by the other model alone: the image is in neither median.
    other = next(row for row in results.images if (row.model, row.norm) == (results.models[1], "linf"))
    rows = tuple(
        replace(row, status="misclassified", distance=0.0, clever=None, ratio=None) if row is other else row
        for row in results.images
    )
    found = {claim.what: claim.here for claim in study.claims(replace(results, images=rows))}
    assert found["median adversarial distance, linf"] == here["median adversarial distance, linf"]


@pytest.mark.parametrize(("distance", "share"), [(1.999 / 255, 0.0), (2.001 / 255, 1.0)])
def test_robust_accuracy_is_of_levels_of_eight_bits(results, distance, share):
    rows = tuple(replace(row, distance=distance) for row in results.images)
    here = {claim.what: claim.here for claim in study.claims(replace(results, images=rows))}
    assert here["robust accuracy at 2/255, linf"] == f"{share:.1%} / {share:.1%}"


@pytest.mark.slow
def test_page_and_figures_are_written(results, tmp_path, capsys):
    write_results(tmp_path / "results.json", results)
    study.main([str(tmp_path / "results.json"), "--output", str(tmp_path / "docs.md")])
    assert capsys.readouterr().out == f"{tmp_path / 'docs.md'}\n"
    page = (tmp_path / "docs.md").read_text()
    assert "robust against standard on digits: 40 images" in page
    linked = re.findall(r"!\[([^\]]+)\]\((docs/[^)]+)\)", page)
    assert len(linked) == 4 + 4 + 2
    assert {name for _, name in linked} == {f"docs/{path.name}" for path in (tmp_path / "docs").iterdir()}
    for text, name in linked:
        svg = (tmp_path / name).read_text()
        used, known = set(re.findall(r"var\(--(\w+)\)", svg)), set(re.findall(r"--(\w+): #", svg))
        assert used <= known, "a colour of the report is missing in the file"
        assert svg.count("prefers-color-scheme: dark") == 1
        assert re.search(r"\d", text), "the text of a figure has its numbers"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    study.main([str(tmp_path / "results.json"), "--output", str(tmp_path / "docs.md")])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_what_cannot_be_read_ends_with_one_line(tmp_path, capsys):
    alone = run_of(("robust",), images=3)
    write_results(tmp_path / "alone.json", results_of(*records_of_images(alone, 3), run=alone))
    for name, message in (
        ("none.json", "cannot be read"),
        ("alone.json", "a run of one model, expected one with a ref"),
    ):
        with pytest.raises(SystemExit):
            study.main([str(tmp_path / name)])
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "study.md").exists()
    pair = results_of(*records_of_images(RUN, 3), run=RUN)
    write_results(tmp_path / "pair.json", pair)
    before = (tmp_path / "pair.json").read_text()
    for output in (str(tmp_path / "pair.json"), str(tmp_path / "folder")):
        with pytest.raises(SystemExit):
            study.main([str(tmp_path / "pair.json"), "--output", output])
        assert "expected a file .md" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "pair.json").read_text() == before
    content = json.loads(before)
    content["images"][0]["distance"] = "far"
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        study.main([str(tmp_path / "damaged.json")])
    assert "got a results.json that is damaged" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("*.md"))
