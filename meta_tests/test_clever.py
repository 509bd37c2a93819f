"""CLEVER against closed forms, and what it must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_tests.test_adversarial_distance import closed_form, images_near_the_middle, linear_model
from metrics import Status, clever
from metrics.norms import DUAL, length


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_linear_model(norm, seed):
    weights, bias, model = linear_model(seed)
    images = images_near_the_middle(seed)
    labels = model(images).argmax(dim=1)
    found = clever(model, images, labels, norm=norm, radius=10.0, blocks=4, block_size=4)
    exact = closed_form(weights, bias, images, labels, norm)
    clear = exact > 1e-3  # a smaller margin is mostly rounding
    np.testing.assert_allclose(found.score.double()[clear], exact[clear], rtol=1e-4)
    assert found.lower.tolist() == found.score.tolist() == found.upper.tolist()
    assert (found.status == Status.ESTIMATED).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_dual_norm_of_a_curved_model(norm):
    """Margin (a.x)^2 / 2 - t: the gradient is a (a.x), and its largest dual norm in the ball is known."""
    direction = torch.full((9,), 1 / 3)
    start, radius = torch.full((1, 1, 3, 3), 0.5), 0.1

    def model(images):
        score = (images.flatten(1) @ direction) ** 2 / 2 - 1.1
        return torch.stack([score, -score], dim=1) / 2

    found = clever(model, start, torch.tensor([0]), norm=norm, radius=radius, blocks=60, block_size=60)
    along = float(start.flatten() @ direction) + radius * float(length(direction[None], DUAL[norm]))
    largest = along * float(length(direction[None], DUAL[norm]))
    margin = float(model(start) @ torch.tensor([1.0, -1.0]))
    # No sample reaches the corner of the ball that a cannot miss: the estimate is from inside, and never far.
    assert margin / largest <= float(found.score) * 1.02
    assert float(found.score) == pytest.approx(margin / largest, rel=0.1)
    assert float(found.raw) >= margin / largest


def test_dual_norm_is_that_of_the_gradient():
    # Gradient (3, -4) everywhere: L1 norm 7 for L-infinity perturbations, L2 norm 5 for L2 ones.
    weights = torch.tensor([3.0, -4.0])

    def model(images):
        score = images.flatten(1) @ weights
        return torch.stack([score / 2, -score / 2], dim=1)

    image = torch.tensor([0.6, 0.2]).view(1, 1, 1, 2)  # margin 1
    scores = [float(clever(model, image, torch.tensor([0]), norm=norm, radius=1.0).score) for norm in ("linf", "l2")]
    assert scores == pytest.approx([1 / 7, 1 / 5])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_does_not_depend_on_neighbours(robust, digits, norm):
    images, labels, few = digits.images[:10], digits.labels[:10], {"blocks": 10, "block_size": 8, "radius": 1.0}
    seeds = list(range(10))
    whole = clever(robust, images, labels, norm=norm, seed=seeds, **few)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = clever(robust, images[order], labels[order], norm=norm, seed=order, **few)
    parts = clever(robust, images, labels, norm=norm, seed=seeds, batch_size=7, **few)
    torch.testing.assert_close(shuffled.score, whole.score[order], rtol=1e-5, atol=0, equal_nan=True)
    torch.testing.assert_close(parts.score, whole.score, rtol=1e-5, atol=0, equal_nan=True)
    again = clever(robust, images, labels, norm=norm, seed=seeds, **few)
    assert torch.equal(again.score.nan_to_num(), whole.score.nan_to_num())
    other = clever(robust, images, labels, norm=norm, seed=7, **few)
    assert not torch.equal(other.score.nan_to_num(), whole.score.nan_to_num())


def test_does_not_touch_global_randomness(robust, digits):
    before = torch.random.get_rng_state()
    clever(robust, digits.images[:2], digits.labels[:2], norm="l2", radius=0.3, blocks=3, block_size=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_scale_of_the_logits_does_not_matter(robust, digits):
    few = {"norm": "l2", "radius": 0.5, "blocks": 10, "block_size": 8}
    plain = clever(robust, digits.images[:6], digits.labels[:6], **few)
    scaled = clever(lambda x: 1000 * robust(x), digits.images[:6], digits.labels[:6], **few)
    torch.testing.assert_close(scaled.score, plain.score, rtol=1e-4, atol=0, equal_nan=True)


def test_dropped_targets_could_not_have_won(robust, digits):
    few = {"norm": "l2", "radius": 1.0, "blocks": 40, "block_size": 24}
    dropped = clever(robust, digits.images[:20], digits.labels[:20], **few)
    kept = clever(robust, digits.images[:20], digits.labels[:20], pruning=float("inf"), **few)
    scored = kept.status == Status.ESTIMATED
    ratio = (dropped.score / kept.score)[scored]
    # A dropped target can only make the minimum larger; how much is within the interval of a score.
    assert (ratio >= 1 - 1e-5).all()
    assert ratio.median() < 1.05
    assert dropped.backward[scored].sum() < 0.4 * kept.backward[scored].sum()


def test_targeted_scores_have_the_untargeted_one_as_minimum(robust, digits):
    few = {"norm": "l2", "radius": 1.0, "blocks": 10, "block_size": 8, "pruning": float("inf")}
    images, labels = digits.images[3:7], digits.labels[3:7]
    whole = clever(robust, images, labels, **few)
    others = torch.stack([torch.tensor([k for k in range(10) if k != label]) for label in labels.tolist()])
    single = torch.stack([clever(robust, images, labels, targets=others[:, [k]], **few).score for k in range(9)], dim=1)
    torch.testing.assert_close(single.amin(dim=1), whole.score, rtol=1e-4, atol=0)
    # Scores at the radius are all alike.
    below = whole.status == Status.ESTIMATED
    assert below.any()
    assert torch.equal(others.gather(1, single.argmin(dim=1, keepdim=True))[:, 0][below], whole.target[below])


def test_score_at_the_radius_is_saturated(robust, digits):
    found = clever(robust, digits.images[:4], digits.labels[:4], norm="linf", radius=1e-4, blocks=5, block_size=4)
    assert (found.status == Status.SATURATED)[found.status != Status.MISCLASSIFIED].all()
    assert torch.equal(found.saturated, found.status == Status.SATURATED)
    assert float(found.score.nan_to_num().max()) == pytest.approx(1e-4)


@pytest.mark.parametrize(("part", "saturated"), [(0.9, True), (1.1, False)])
def test_score_is_saturated_from_the_radius_on(part, saturated):
    weights, bias, model = linear_model(0)
    image = images_near_the_middle(0)[:1]
    label = model(image).argmax(dim=1)
    radius = part * float(closed_form(weights, bias, image, label, "l2"))
    found = clever(model, image, label, norm="l2", radius=radius, blocks=3, block_size=2)
    assert bool(found.saturated) is saturated
    assert int(found.status) == (Status.SATURATED if saturated else Status.ESTIMATED)


def test_zero_gradients_give_no_score(robust, digits):
    """Rounded logits: published code answers with the radius, the largest score there is."""
    found = clever(
        lambda x: (1e4 * robust(x)).round() / 1e4, digits.images[:4], digits.labels[:4], norm="l2", radius=1.0
    )
    correct = found.status != Status.MISCLASSIFIED
    assert (found.status == Status.UNAVAILABLE)[correct].all()
    assert found.zero_gradient[correct].all()
    assert found.score.isnan().all()


def test_misclassified_images_have_no_score_and_cost_nothing(robust, digits):
    labels = (robust(digits.images[:3]).argmax(dim=1) + 1) % 10
    found = clever(robust, digits.images[:3], labels, norm="linf", radius=0.3)
    assert found.status.tolist() == [Status.MISCLASSIFIED] * 3
    assert found.score.isnan().all()
    assert found.backward.tolist() == [0, 0, 0]


def test_passes_are_those_of_the_samples(robust, digits):
    found = clever(robust, digits.images[3:7], digits.labels[3:7], norm="l2", radius=1.0, blocks=10, block_size=8)
    # Two calls on the clean image, one forward pass for each sample, whatever the number of targets.
    assert found.forward.tolist() == [2 + 80] * 4
    # The pilot's eight samples have a backward pass for each of nine targets, the others one for each that is left.
    assert ((found.backward - 8 * 9) % 72 == 0).all()
    assert (found.backward >= 8 * 9 + 72).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_stay_in_the_box_and_in_the_ball(norm):
    seen = []

    def model(images):
        seen.append(images.detach().clone())
        return images.flatten(1)[:, :2] + torch.tensor([3.0, 0.0])

    image = torch.tensor([0.02, 0.98, 0.5, 0.5]).view(1, 1, 2, 2)
    clever(model, image, torch.tensor([0]), norm=norm, radius=0.1, blocks=5, block_size=10)
    points = torch.cat(seen)
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    assert float(length(points - image, norm).max()) <= 0.1 * (1 + 1e-5)
    assert len(torch.unique(points, dim=0)) == 51, "all samples are fresh: none is drawn twice"
