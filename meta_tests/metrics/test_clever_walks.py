"""CLEVER with walks: where random points fail, against exact distances, and what it must not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import Status, clever
from metrics.box import steepest_descent
from metrics.gradient_norms import label_change, samples, walks
from metrics.norms import DUAL, NORMS, vector_norm
from references.linear_models import closed_form, images_near_the_middle, linear_model
from references.linear_pieces import exact_distance, network

FEW = {"sampling": "walks", "blocks": 8, "block_size": 4}
LABEL = torch.tensor([0])


def one_pixel(margin):
    """A model whose margin is a function of the first value of an image; the others have no influence."""

    def model(images):
        margins = margin(images.flatten(1)[:, 0])
        return torch.stack([margins - 7, torch.full_like(margins, -7)], dim=1)

    return model


def test_walks_meet_a_steep_place_that_random_points_miss():
    """One value of 64 is steep from 0.5 on, and the label changes at 0.55."""
    model = one_pixel(lambda value: 1 - value - 9 * (value - 0.5).relu())
    image = torch.zeros(1, 1, 8, 8)
    few = {"norm": "l2", "radius": 0.9, "seed": 1}
    missed = clever(model, image, LABEL, sampling="ball", **few)
    assert float(missed.score) == pytest.approx(0.9), "wrong: the label changes at 0.55"
    found = clever(model, image, LABEL, **FEW, **few)
    assert float(found.score) == pytest.approx(0.1, rel=1e-3)
    assert float(found.lipschitz) == pytest.approx(10, rel=1e-3)


def test_gradients_on_the_descent_count(monkeypatch):
    """The same model, and walks without steps: only the descent to the label change meets the steep place."""
    monkeypatch.setattr(samples, "STEPS", 0)
    model = one_pixel(lambda value: 1 - value - 9 * (value - 0.5).relu())
    found = clever(model, torch.zeros(1, 1, 8, 8), LABEL, norm="l2", radius=0.9, seed=1, **FEW)
    assert float(found.maxima.nan_to_num().max()) == pytest.approx(1)
    assert float(found.score) == pytest.approx(0.1, rel=1e-3)
    beyond = clever(model, torch.zeros(1, 1, 8, 8), LABEL, norm="l2", radius=0.45, seed=1, **FEW)
    assert bool(beyond.saturated), "the descent leaves this ball, so it does not count"


def test_the_score_is_not_above_the_label_change():
    """The margin falls to 0 within 0.0005 of 0.5, where no walk stops: only the label change itself is known."""
    model = one_pixel(lambda value: 1 - 0.3 * value - 2000 * (value - 0.5).relu())
    found = clever(model, torch.zeros(1, 1, 8, 8), LABEL, norm="l2", radius=0.9, seed=1, **FEW)
    assert float(found.raw) > float(found.label_change) >= 0.5
    assert float(found.score) == float(found.label_change)
    assert int(found.status) == Status.ESTIMATED, "a label change was found, so it is not saturated"


def test_the_ball_is_a_little_larger_than_the_label_change():
    """Of 40 points uniform in it, some are beyond the label change, and none beyond 1.15 times its distance."""
    seen = []
    linear = one_pixel(lambda value: 0.5 - value)

    def model(images):
        seen.append(float(images.detach().max()))
        return linear(images)

    few = FEW | {"blocks": 10}
    found = clever(
        model, torch.zeros(1, 1, 1, 1), LABEL, norm="l2", radius=0.9, tolerance=0, pruning=float("inf"), **few
    )
    assert 1.08 < max(seen) / float(found.label_change) <= 1.15 + 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_beyond_the_label_change_does_not_count(norm):
    """The slope is 1 up to the label change at 0.5, and 100 beyond, which has no influence on the distance."""
    model = one_pixel(lambda value: 0.5 - value - 99 * (value - 0.5).relu())
    image, few = torch.zeros(1, 1, 1, 1), {"norm": norm, "radius": 0.9, "blocks": 20, "block_size": 8}
    published = clever(model, image, LABEL, sampling="ball", **few)
    assert float(published.score) == pytest.approx(0.005, rel=1e-3)
    found = clever(model, image, LABEL, sampling="walks", **few)
    assert float(found.score) == pytest.approx(0.5, rel=1e-5)
    assert 0.5 <= float(found.label_change) <= 0.55


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_label_change_of_a_linear_model(norm, seed):
    weights, bias, model = linear_model(seed)
    images = images_near_the_middle(seed)
    labels = model(images).argmax(dim=1)
    exact = closed_form(weights, bias, images, labels, norm)
    found = clever(model, images, labels, norm=norm, radius=100.0, **FEW)
    ratio = found.label_change.double() / exact
    # A step ends 2 % beyond the linearised boundary, and a bisection keeps the end.
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= label_change.OVERSHOOT + 1e-5).all()


def test_rounds_find_nearer_label_changes(robust, digits, monkeypatch):
    few = FEW | {"norm": "linf", "radius": 1.0, "blocks": 3, "block_size": 1}
    found = clever(robust, digits.images[:20], digits.labels[:20], **few)
    monkeypatch.setattr(label_change, "ROUNDS", 0)
    without = clever(robust, digits.images[:20], digits.labels[:20], **few)
    correct = found.status != Status.MISCLASSIFIED
    assert (found.label_change <= without.label_change)[correct].all()
    assert (found.label_change < 0.95 * without.label_change)[correct].sum() >= 3


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_never_above_the_exact_distance(norm):
    """Random ReLU networks with six inputs, whose distance is known from every linear piece."""
    judged = 0
    for seed in range(12):
        layers = network(seed)
        images = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
        labels = layers(images).argmax(dim=1)
        pairs = zip(images, labels.tolist(), strict=True)
        exact = torch.tensor([exact_distance(layers, image, label, norm) for image, label in pairs])
        found = clever(layers, images, labels, norm=norm, radius=10.0, seed=seed, sampling="walks")
        known = exact.isfinite() & (found.status == Status.ESTIMATED)
        assert (found.score[known] <= exact[known] * (1 + 1e-5)).all()
        assert (found.label_change[known] >= exact[known] * (1 - 1e-5)).all(), (
            "the nearest adversarial example is not further away"
        )
        judged += int(known.sum())
    assert judged >= 30


@pytest.mark.parametrize("norm", NORMS)
def test_does_not_depend_on_neighbours(robust, digits, norm):
    images, labels, few = digits.images[:10], digits.labels[:10], FEW | {"norm": norm, "radius": 1.0}
    seeds = list(range(10))
    whole = clever(robust, images, labels, seed=seeds, **few)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = clever(robust, images[order], labels[order], seed=order, **few)
    parts = clever(robust, images, labels, seed=seeds, batch_size=7, **few)
    for name in ("score", "label_change", "lipschitz", "raw"):
        expected = getattr(whole, name)
        torch.testing.assert_close(getattr(shuffled, name), expected[order], rtol=1e-4, atol=0, equal_nan=True)
        torch.testing.assert_close(getattr(parts, name), expected, rtol=1e-4, atol=0, equal_nan=True)
    other = clever(robust, images, labels, seed=7, **few)
    assert not torch.equal(other.score.nan_to_num(), whole.score.nan_to_num())
    torch.testing.assert_close(other.label_change, whole.label_change, rtol=1e-4, atol=0)  # the descents are not random


def test_passes_are_counted(robust, digits):
    counts = {"forward": 0, "backward": 0}

    def model(images):
        logits = robust(images)
        counts["forward"] += len(images)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: counts.update(backward=counts["backward"] + len(gradient)))
        return logits

    found = clever(model, digits.images[3:7], digits.labels[3:7], norm="l2", radius=1.0, **FEW)
    assert int(found.forward.sum()) == counts["forward"]
    assert int(found.backward.sum()) == counts["backward"]


def test_walks_end_where_the_label_changes(robust, digits):
    """In a tiny ball, the label does not change: all walks have all steps. The descents are the same."""
    image, few = digits.images[3:4], FEW | {"norm": "linf", "targets": "top-2", "blocks": 3}
    whole = clever(robust, image, digits.labels[3:4], radius=1e-3, **few)
    ended = clever(robust, image, digits.labels[3:4], radius=1.0, **few)
    assert bool(whole.saturated)
    saved = int(whole.forward) - int(ended.forward)
    assert 0 < saved < 12 * walks.STEPS
    assert saved == int(whole.backward) - int(ended.backward)
    assert float(ended.score) <= float(ended.label_change) < 1


@pytest.mark.parametrize("norm", NORMS)
def test_points_stay_in_the_box_and_in_the_ball(norm):
    seen = []

    def model(images):
        seen.append(images.detach().clone())
        return images.flatten(1)[:, :2] + torch.tensor([3.0, 0.0])

    image = torch.tensor([0.02, 0.98, 0.5, 0.5]).view(1, 1, 2, 2)
    found = clever(model, image, LABEL, norm=norm, radius=0.1, **FEW)
    assert bool(found.saturated), "the label is kept in the whole ball"
    assert float(found.label_change) == torch.inf
    points = torch.cat(seen)
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    # The descents leave the ball, in vain. The gradient is constant: three blocks of walks are enough.
    walked = points[-12 * (1 + walks.STEPS) :]
    assert float(vector_norm(walked - image, norm).max()) <= 0.1 * (1 + 1e-5)


def test_walks_in_l1_differ(robust, digits):
    """Their starts hardly differ in many dimensions: each step may move a random half of the values."""
    found = clever(robust, digits.images[3:7], digits.labels[3:7], norm="l1", radius=6.0, tolerance=0, **FEW)
    assert found.blocks.tolist() == [8] * 4
    assert all(len(set(maxima)) > 4 for maxima in found.maxima.tolist())
    seen = []

    def linear(images):
        seen.append(images.detach().flatten(1))
        margins = 1 - images.flatten(1) @ torch.linspace(1, 0.5, 64)
        return torch.stack([margins - 9, torch.full_like(margins, -9)], dim=1)

    clever(linear, torch.zeros(1, 1, 8, 8), LABEL, norm="l1", radius=6.0, **FEW | {"blocks": 3, "block_size": 16})
    after_a_step = [points for points in seen if len(points) > 16][1]
    assert len(set(after_a_step.argmax(dim=1).tolist())) > 3, "the steepest value may not move in every walk"
    drawn = walks.free_values(3, 100, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, walks.STEPS, 100)
    assert 0.4 < drawn.double().mean() < 0.6


def test_a_flat_model_has_no_score_and_costs_one_block(robust, digits):
    flat = clever(
        lambda x: robust(x).detach() + 0 * robust(x),
        digits.images[3:4],
        digits.labels[3:4],
        norm="l2",
        radius=2.0,
        sampling="walks",
        blocks=10,
        block_size=16,
    )
    assert bool(flat.zero_gradient)
    assert int(flat.status) == Status.UNAVAILABLE
    assert int(flat.forward) < 100


@pytest.mark.parametrize("norm", NORMS)
def test_masked_gradients_give_no_score(robust, digits, norm):
    def model(images):
        logits = robust(images)
        return (logits.detach() * 1e3).round() / 1e3 + 1e-6 * logits

    found = clever(
        model,
        digits.images[3:7],
        digits.labels[3:7],
        norm=norm,
        radius={"linf": 0.25, "l2": 1.25, "l1": 6.0}[norm],
        **FEW,
    )
    assert found.masked_gradient.all()
    assert (found.status == Status.UNAVAILABLE).all()
    assert found.score.isnan().all()


def test_gradients_that_are_not_finite_give_no_score():
    def model(images):
        first, second = images.flatten(1).T
        return torch.stack([second + 1, 0.5 - second, 0.3 * torch.tanh((first - 0.25) * 1e20 * 1e20)], dim=1)

    images = torch.tensor([[0.25, 0.5], [0.7, 0.6]]).view(2, 1, 1, 2)
    found = clever(
        model, images, torch.tensor([0, 0]), norm="linf", radius=0.9, pruning=float("inf"), seed=[1, 2], **FEW
    )
    assert int(found.status[0]) == Status.UNAVAILABLE
    assert bool(found.broken_gradient[0])


def test_memory_that_does_not_suffice_halves_the_batch(robust, digits):
    def model(images):
        if len(images) > 10:
            raise torch.OutOfMemoryError
        return robust(images)

    few = FEW | {"norm": "l2", "radius": 0.5, "seed": [1, 2], "batch_size": 32}
    found = clever(model, digits.images[3:5], digits.labels[3:5], **few)
    plain = clever(robust, digits.images[3:5], digits.labels[3:5], **few)
    torch.testing.assert_close(found.score, plain.score, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), length=st.floats(1e-3, 2.0))
def test_steepest_descent(norm, seed, length):
    """It has the wanted norm at most, stays in the box in L1, and no random step of that norm descends further."""
    generator = torch.Generator().manual_seed(seed)
    point = torch.rand(1, 20, generator=generator, dtype=torch.double)
    gradient = torch.randn(1, 20, generator=generator, dtype=torch.double)
    step = steepest_descent(point, gradient, torch.tensor([length], dtype=torch.double), norm)
    assert float(vector_norm(step, norm)) <= length * (1 + 1e-9)
    falls = -(gradient * step).sum()
    assert float(falls) <= length * float(vector_norm(gradient, DUAL[norm])) * (1 + 1e-9)
    if norm == "l1":
        assert ((point + step >= -1e-12) & (point + step <= 1 + 1e-12)).all()
    others = torch.randn(200, 20, generator=generator, dtype=torch.double)
    others = others * (length / vector_norm(others, norm))[:, None]
    if norm == "l1":
        others = (point + others).clamp(0, 1) - point
    assert float(falls) >= float((-(gradient * others).sum(dim=1)).max()) * (1 - 1e-9)
