"""Anchored CLEVER: what the segment to an adversarial example adds, against closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import Status, adversarial_distance, anchored_clever, clever
from metrics.norms import NORMS, vector_norm
from references.linear_models import closed_form, images_near_the_middle, linear_model

FEW = {"blocks": 4, "block_size": 8}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_model_has_nothing_to_lower(norm):
    weights, bias, model = linear_model(1)
    images = images_near_the_middle(1)
    labels = model(images).argmax(dim=1)
    scores = clever(model, images, labels, norm=norm, radius=10.0, **FEW)
    adversarial = adversarial_distance(model, images, labels, norm=norm, effort="quick").adversarial
    found = anchored_clever(model, images, labels, adversarial, scores, norm=norm)
    exact = closed_form(weights, bias, images, labels, norm)
    clear = exact > 1e-3
    torch.testing.assert_close(found.score[clear].double(), exact[clear].double(), rtol=1e-4, atol=0)
    assert (found.status == Status.ESTIMATED).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_is_never_above_the_distance_or_the_score(seed):
    """A random network with a hidden layer; any adversarial example will do, near or far."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(*shape, generator=generator) for shape in ((24, 48), (4, 24)))
    model = lambda x: (x.flatten(1) @ first.T).relu() @ second.T  # noqa: E731  # one expression
    images = images_near_the_middle(seed)
    labels = model(images).argmax(dim=1)
    for norm in NORMS:
        scores = clever(model, images, labels, norm=norm, radius=0.5, seed=seed, **FEW)
        adversarial = torch.rand(images.shape, generator=generator)
        fooled = model(adversarial).argmax(dim=1) != labels
        found = anchored_clever(model, images, labels, adversarial, scores, norm=norm, points=3)
        distance = vector_norm(adversarial - images, norm)
        scored = scores.score.isfinite()
        assert (found.score <= distance * (1 + 1e-4))[fooled & scored].all()
        assert (found.score <= scores.score)[fooled & scored].all()
        assert (found.status == Status.CENSORED)[~fooled & scored].all()
        assert found.score[~fooled].isnan().all()


def test_a_cliff_that_no_sample_meets():
    """Margin 1 - x - 9 max(0, x - 0.5) in the first of 64 pixels: slope 10 beyond 0.5, boundary at 0.55."""

    def model(images):
        pixel = images.flatten(1)[:, :1]
        return torch.cat([-pixel - 9 * (pixel - 0.5).relu(), torch.full_like(pixel, -1)], dim=1)

    image, label = torch.zeros(1, 1, 8, 8), torch.tensor([0])
    adversarial = image.clone()
    adversarial[0, 0, 0, 0] = 0.56
    scores = clever(model, image, label, norm="l2", radius=2.0, **FEW)
    assert float(scores.score) == pytest.approx(1.0), "slope 1 at every sample: above the distance, 0.55"
    found = anchored_clever(model, image, label, adversarial, scores, norm="l2", points=16)
    assert float(found.lipschitz) == pytest.approx(10)
    assert float(found.score) == pytest.approx(0.1)
    # Too few points to see the cliff: the mean slope does.
    coarse = anchored_clever(model, image, label, adversarial, scores, norm="l2", points=1)
    assert float(coarse.score) == pytest.approx(0.56 / (0.56 + 9 * 0.06))
    assert found.forward.tolist() == [2 + 1 + 16]
    assert found.backward.tolist() == [16]


def test_statuses_pass_through(robust, digits):
    images, labels = digits.images[3:7], digits.labels[3:7].clone()
    labels[0] = (labels[0] + 1) % 10
    scores = clever(robust, images, labels, norm="l2", radius=1.0, **FEW)
    adversarial = adversarial_distance(robust, images, labels, norm="l2", effort="quick").adversarial
    adversarial[1] = images[1]
    found = anchored_clever(robust, images, labels, adversarial, scores, norm="l2")
    assert found.status.tolist()[:2] == [Status.MISCLASSIFIED, Status.CENSORED]
    assert found.score.isnan().tolist() == [True, True, False, False]
    assert (found.anchor[2:] == robust(adversarial[2:]).argmax(dim=1)).all()
    small = anchored_clever(robust, images, labels, adversarial, scores, norm="l2", batch_size=1)
    torch.testing.assert_close(small.score, found.score, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adversarial": torch.zeros(2, 1, 8, 8)}, "got adversarial examples"),
        ({"adversarial": None}, "got adversarial examples"),
        ({"adversarial": torch.full((1, 1, 8, 8), 2.0)}, r"expected \[0, 1\]"),
        ({"norm": "l7"}, "got norm='l7'"),
        ({"points": 0}, "got points=0"),
    ],
)
def test_bad_input_is_refused(robust, digits, change, message):
    images, labels = digits.images[3:4], digits.labels[3:4]
    scores = clever(robust, images, labels, norm="l2", radius=1.0, **FEW)
    arguments = {"adversarial": images, "scores": scores, "norm": "l2"} | change
    with pytest.raises(ValueError, match=message):
        anchored_clever(robust, images, labels, **arguments)


def test_scores_of_other_images_are_refused(robust, digits):
    scores = clever(robust, digits.images[3:5], digits.labels[3:5], norm="l2", radius=1.0, **FEW)
    with pytest.raises(ValueError, match="got 2 CLEVER scores for 1 images"):
        anchored_clever(robust, digits.images[3:4], digits.labels[3:4], digits.images[3:4], scores, norm="l2")
