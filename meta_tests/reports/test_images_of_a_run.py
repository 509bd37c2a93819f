"""What is kept of each image for the report: pictures, the way of the attack, the fit of a score."""

import base64
import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from meta_tests.runs import RUN, about_of, model_record, records_of_images, results_of, run_of
from metrics import Status, adversarial_distance, clever
from metrics.attacks import SearchPath
from metrics.extreme_value import end_point
from reports.images import ImageRow
from reports.page import page
from reports.pictures import EACH, MAX_SIDE, choose, pictures, png
from robustness_tests import test_adversarial_distance as properties
from robustness_tests.harness.clever_fit import clever_fit
from robustness_tests.harness.fixtures.clever import ScoreOfImage
from robustness_tests.harness.image_rows import image_row
from robustness_tests.harness.measured import values_of
from robustness_tests.harness.records import Record
from robustness_tests.harness.run import TRACED
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.harness.traces import traced


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_png_holds_the_very_pixels():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    assert (pixels(png(image / 255)) == image.transpose(1, 2, 0)).all()
    grey = image[:1]
    assert (pixels(png(grey / 255)) == grey[0]).all()


def test_large_images_are_made_smaller_and_odd_channels_are_averaged():
    assert pixels(png(np.full((3, 2 * MAX_SIDE, MAX_SIDE), 0.5))).shape == (MAX_SIDE, MAX_SIDE // 2, 3)
    assert (pixels(png(np.stack([np.zeros((2, 2)), np.ones((2, 2))]))) == 128).all()


@pytest.fixture
def stored(tmp_path):
    """A run with one batch of two images in its store."""
    clean = torch.full((2, 1, 2, 2), 0.5)
    adversarial = clean.clone()
    adversarial[1, 0, 0, 0], adversarial[1, 0, 1, 1] = 0.75, 0.375
    (tmp_path / "measurements").mkdir()
    save_file({"clean": clean, "adversarial": adversarial}, tmp_path / "measurements/batch.safetensors")
    return replace(RUN, results=tmp_path, store=tmp_path / "measurements")


def test_pictures_are_read_from_the_store(stored):
    row = ImageRow("robust", "linf", 7, distance=0.25, status="attacked", stored_at="batch.safetensors#1")
    (found,) = pictures(stored, [row])
    assert (found.reason, found.image, found.scale) == ("least robust", 7, 0.25)
    assert pixels(found.clean).tolist() == [[128, 128], [128, 128]]
    assert pixels(found.adversarial).tolist() == [[191, 128], [128, 96]]
    # Grey is no change; white is the largest one up; half of it down.
    assert pixels(found.difference).tolist() == [[255, 128], [128, 64]]


@pytest.mark.parametrize("stored_at", [None, "gone.safetensors#0", "broken.safetensors#0"])
def test_what_is_not_stored_is_no_picture(stored, stored_at):
    (stored.store / "broken.safetensors").write_bytes(b"nothing")
    assert pictures(stored, [ImageRow("robust", "linf", 7, distance=0.25, stored_at=stored_at)]) == []


def test_chosen_images_are_the_worst():
    rows = results_of(*records_of_images(RUN, 40)).images
    chosen = choose(RUN, rows)
    ours = {norm: [row for row in rows if (row.model, row.norm) == ("robust", norm)] for norm in RUN.norms}
    theirs = {(row.norm, row.image): row.distance for row in rows if row.model == "standard"}
    for norm in RUN.norms:
        found = {reason: [row for why, row in chosen if why == reason and row.norm == norm] for reason, _ in chosen}
        assert found["least robust"] == sorted(ours[norm], key=lambda row: row.distance)[:EACH]
        violations = [row for row in rows if row.norm == norm and row.clever > row.distance]
        assert found["largest violations"] == sorted(violations, key=lambda row: -row.ratio)[:EACH]
        losses = sorted(ours[norm], key=lambda row: row.distance - theirs[norm, row.image])
        assert found["largest losses"] == [row for row in losses[:EACH] if row.distance < theirs[norm, row.image]]
    assert not any(why == "largest losses" for why, _ in choose(run_of(models=("robust",)), rows))


def test_misclassified_images_are_not_the_least_robust():
    rows = [ImageRow("robust", "linf", 0, distance=0.0), ImageRow("robust", "linf", 1, distance=0.1)]
    assert [row.image for _, row in choose(run_of(models=("robust",)), rows)] == [1]


def test_trace_is_the_best_distance_so_far(robust, digits):
    images, labels = digits.images[:6], digits.labels[:6]
    result = adversarial_distance(robust, images, labels, norm="l2", effort="quick", record_path=True)
    columns = traced(result.path, result)
    assert columns["trace"].shape == (6, len(TRACED))
    for row, final in enumerate(result.distance.tolist()):
        trace = columns["trace"][row]
        assert (trace[1:] <= trace[:-1]).all()
        assert trace[-1] == columns["trace"][row].min() == pytest.approx(final)
        mine = result.path.image == row
        tried, margins = result.path.distance[mine], result.path.margin[mine]
        for index, queries in enumerate(TRACED):
            if final > 0 and queries <= len(tried):
                found = [d for d, m in zip(tried[:queries].tolist(), margins[:queries].tolist(), strict=True) if m <= 0]
                assert float(trace[index]) == pytest.approx(max(final, min(found, default=math.inf)), rel=1e-3)


def test_trace_by_hand():
    """Four queries: nothing, 0.5, 0.7, 0.4; the third image is misclassified and has none, the second was censored."""
    path = SearchPath(
        image=torch.tensor([0, 0, 1, 0, 0]),
        attack=torch.zeros(5, dtype=torch.int64),
        distance=torch.tensor([0.3, 0.5, 0.1, 0.7, 0.4]),
        margin=torch.tensor([1.0, -1.0, 2.0, -1.0, -1.0]),
    )
    result = type("Result", (), {"distance": torch.tensor([0.4, math.inf, 0.0])})
    columns = traced(path, result)
    assert columns["trace"][0, :4].tolist() == pytest.approx([math.inf, 0.5, 0.4, 0.4])
    assert columns["halfway"].tolist() == pytest.approx([0.5, math.inf, 0.0])
    assert columns["trace"][1].isinf().all()
    assert (columns["trace"][2] == 0).all()


def test_fit_of_a_score_ends_at_the_score(robust, digits):
    """The last look of the figure is the score itself, and all looks are fits of the first maxima."""
    images, labels = digits.images[2:6], digits.labels[2:6]
    scores = clever(robust, images, labels, norm="linf", radius=0.25, blocks=20, block_size=12, tolerance=0)
    assert scores.maxima.shape == (4, 20)
    for row in range(4):
        columns = {name: column[row] for name, column in vars(scores).items()}
        score = image_row(ScoreOfImage, columns, image=row, radius=0.25, stored=False)
        assert score.status in (Status.ESTIMATED, Status.SATURATED)
        fit = clever_fit(score, 0.1)
        assert (fit["blocks"][-1], len(fit["maxima"])) == (score.blocks, score.blocks)
        first = end_point(scores.maxima[row : row + 1, :8])
        assert fit["scores"][fit["blocks"].index(8)] == pytest.approx(min(0.25, score.margin / float(first.estimate)))
        # The score may be lower: by the gradient at the image, or a slope.
        assert fit["scores"][-1] >= score.score * (1 - 1e-6)
        assert all(
            lower <= value <= upper
            for lower, value, upper in zip(fit["lower"], fit["scores"], fit["upper"], strict=True)
        )
        assert fit["lipschitz"] >= max(fit["maxima"]) * (1 - 1e-6)


def test_maxima_are_those_of_the_winner_and_end_with_the_sampling(robust, digits):
    """One target: its raw score is margin / the largest of them; images that stop early have NaN behind."""
    images, labels = digits.images[:8], digits.labels[:8]
    scores = clever(
        robust, images, labels, norm="l2", radius=1.25, targets="top-2", blocks=16, block_size=12, tolerance=0.3
    )
    assert len(set(scores.blocks.tolist())) > 1, "some stop early"
    for row in range(8):
        blocks = int(scores.blocks[row])
        maxima = scores.maxima[row]
        assert maxima[:blocks].isfinite().all()
        assert maxima[blocks:].isnan().all()
        if blocks:
            assert float(scores.raw[row]) <= float(scores.margin[row] / maxima[:blocks].max()) * (1 + 1e-6)


def test_maxima_are_those_of_the_winning_target(robust, digits):
    """All targets share the points: the winner alone, with the same seed, has the same maxima."""
    images, labels = digits.images[2:8], digits.labels[2:8]
    options = {"norm": "linf", "radius": 0.25, "blocks": 6, "block_size": 8, "tolerance": 0, "seed": 3}
    every = clever(robust, images, labels, pruning=math.inf, **options)
    alone = clever(robust, images, labels, targets=every.target[:, None], **options)
    assert len(set(every.target.tolist())) > 1
    assert torch.allclose(every.maxima, alone.maxima)


def test_images_that_violated_properties_name_come_first():
    named = model_record("test_clean_accuracy", "failed", {"value": 0.5, "worst": [5, 2]})
    rows = results_of(*records_of_images(RUN, 8), named).images
    chosen = choose(RUN, rows, [5, 2, 99])
    assert [(why, row.norm, row.image) for why, row in chosen[:4]] == [
        ("named above", "linf", 5),
        ("named above", "l2", 5),
        ("named above", "linf", 2),
        ("named above", "l2", 2),
    ]
    assert {row.model for why, row in chosen if why == "named above"} == {"robust"}
    assert "named above" not in {why for why, _ in choose(RUN, rows)}


def test_run_shows_the_images_that_its_failures_name(stored):
    about = {**about_of("test_adversarial_example_is_real"), "model": "robust", "norm": "linf", "image": 1}
    values = {"status": "attacked", "distance": 0.25, "label": 0, "clean_class": 0, "stored_at": "batch.safetensors#1"}
    failed = model_record("test_robust_accuracy", "failed", {"value": 0.5, "worst": [1]}, norm="linf")
    results = results_of(Record("a", "passed", "", 0.1, about, values), failed, run=stored, status=1)
    assert [one.reason for one in results.pictures] == ["named above", "least robust"]
    assert "Named above" in page(results, "x")


@pytest.mark.parametrize(("ratio", "count", "holds"), [(1.049, 20, True), (1.051, 20, False), (2.0, 3, True)])
def test_convergence_is_judged_by_its_interval(ratio, count, holds):
    """20 images that all fell by too much are proof, three are not."""
    one = {"status": Status.ATTACKED, "halfway": ratio, "distance": 1.0}
    found = {image: SimpleNamespace(image=image, **one) for image in range(count)}
    values = {}

    def check():
        properties.test_attack_has_converged(
            SimpleNamespace(name="net"),
            "linf",
            lambda _, image, norm: found[image],
            range(count),
            load_thresholds(None),
            lambda *own, **known: values.update(values_of(*own, **known)),
        )

    if holds:
        check()
    else:
        with pytest.raises(AssertionError, match="they are still falling"):
            check()
    assert (values["value"], values["worst"]) == (ratio, [0, 1, 2])
