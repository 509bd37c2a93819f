"""Failure probabilities against closed forms: normal noise on linear models, and balls."""

import math

import pytest
import torch
from scipy import stats

from metrics import Status, failure_probability, noise_accuracy
from metrics.failure_probability import NOISES, latent_size, noise_of
from metrics.norms import NORMS, uniform_in_ball, vector_norm

LABEL = torch.tensor([0])


def along_mean(offset):
    """The margin is `offset` plus the sum of the values above 0.5, divided by the root of their number."""

    def model(images):
        values = images.flatten(1) - 0.5
        margins = offset + values.sum(dim=1) / math.sqrt(values.shape[1])
        return torch.stack([margins - 9, torch.full_like(margins, -9)], dim=1)

    return model


def repeats(count):
    return torch.full((count, 1, 4, 4), 0.5), torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize(("probability", "count"), [(1e-2, 200), pytest.param(1e-4, 1000, marks=pytest.mark.slow)])
def test_normal_noise_on_a_linear_model(probability, count):
    """The interval covers the probability in 95 % of cases, and the levels have their Poisson distribution."""
    strength = 0.02
    model = along_mean(-stats.norm.ppf(probability) * strength)
    images, labels = repeats(count)
    found = failure_probability(
        model, images, labels, noise="gaussian", strength=strength, seed=list(range(count)), batch_size=count
    )
    assert (found.status == Status.ESTIMATED).all()
    covered = int(((found.lower <= probability) & (probability <= found.upper)).sum())
    # The exact interval is conservative; 0.93 would be met by chance in one of 1,000 cases with 1,000 repeats.
    assert covered >= stats.binom.ppf(1e-3, count, 0.95)
    mean = -16 * math.log(probability)
    levels = found.levels.double()
    assert abs(float(levels.mean()) - mean) < 4 * math.sqrt(mean / count)
    assert 0.75 < float(levels.var()) / mean < 1.3
    # Unbiased, although the median is smaller.
    assert float(found.probability.double().mean()) == pytest.approx(probability, rel=0.25)
    assert float(found.forward.double().mean()) == pytest.approx(17 + 20 * mean, rel=0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_uniform_noise_on_one_value(norm):
    """One value of two: the share of the ball beyond a plane is known."""
    distance, radius = 0.48, 0.5
    part = distance / radius
    cap = {
        "linf": (1 - part) / 2,
        "l1": (1 - part) ** 2 / 2,
        "l2": (math.acos(part) - part * math.sqrt(1 - part**2)) / math.pi,
    }[norm]

    def model(images):
        margins = images.flatten(1)[:, 0] - 0.5 + distance
        return torch.stack([margins - 9, torch.full_like(margins, -9)], dim=1)

    images, labels = torch.full((200, 1, 1, 2), 0.5), torch.zeros(200, dtype=torch.long)
    found = failure_probability(
        model, images, labels, noise=norm, strength=radius, seed=list(range(200)), batch_size=200
    )
    covered = int(((found.lower <= cap) & (cap <= found.upper)).sum())
    assert covered >= stats.binom.ppf(1e-3, 200, 0.95)
    assert float(found.probability.double().mean()) == pytest.approx(cap, rel=0.25)


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_uniform_in_the_ball(norm):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(4000, latent_size(norm, 5), generator=generator, dtype=torch.double)
    ours = noise_of(latent, norm, 5)
    theirs = uniform_in_ball(4000, (5,), norm, generator, torch.double)
    assert float(vector_norm(ours, norm).max()) <= 1
    for one, other in ((ours[:, 0], theirs[:, 0]), (vector_norm(ours, norm), vector_norm(theirs, norm))):
        assert stats.ks_2samp(one.numpy(), other.numpy()).pvalue > 1e-3


def test_agrees_with_plain_draws(robust, digits):
    """Where failures are frequent enough to be counted."""
    images, labels = digits.images[:30], digits.labels[:30]
    found = failure_probability(robust, images, labels, noise="linf", strength=0.6, seed=1)
    plain = noise_accuracy(robust, images, labels, norm="linf", epsilons=[0.6], sampling="ball", samples=2000)
    failures = 1 - plain.accuracy[:, 0]
    slack = 3 * (failures * (1 - failures) / 2000).sqrt() + 1e-3
    known = found.status == Status.ESTIMATED
    agrees = ((found.lower <= failures + slack) & (failures - slack <= found.upper))[known]
    assert (failures > 0.01).sum() >= 3, "some images fail often enough"
    assert agrees.double().mean() >= 0.9


@pytest.mark.parametrize("noise", NOISES)
def test_a_label_that_cannot_change_is_below(noise):
    images, labels = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0])
    found = failure_probability(along_mean(50.0), images, labels, noise=noise, strength=0.1, least=1e-4, particles=4)
    assert found.below.all()
    assert (found.status == Status.CENSORED).all()
    assert (found.upper < 1e-4).all()
    assert found.lower.tolist() == [0, 0]
    assert (found.levels == found.levels[0]).all()


def test_misclassified_images_have_no_probability_and_cost_nothing():
    images, labels = repeats(2)
    found = failure_probability(along_mean(-50.0), images, labels, noise="l2", strength=0.1)
    assert (found.status == Status.MISCLASSIFIED).all()
    assert found.probability.isnan().all()
    assert found.upper.isnan().all()
    assert found.forward.tolist() == [2, 2], "the check of the logits"


def test_all_noise_may_change_the_label():
    """A bump of the margin at the image alone."""

    def model(images):
        away = (images.flatten(1) - 0.5).abs().amax(dim=1)
        margins = 1e-3 - away
        return torch.stack([margins - 9, torch.full_like(margins, -9)], dim=1)

    images, labels = repeats(2)
    found = failure_probability(model, images, labels, noise="linf", strength=0.4)
    assert found.probability.tolist() == [1, 1]
    assert found.upper.tolist() == [1, 1]
    assert found.levels.tolist() == [0, 0]


def test_a_flat_margin_has_no_probability():
    """Rounded logits: no move is better than another, so nothing is known."""
    images, labels = repeats(2)
    found = failure_probability(
        lambda x: along_mean(3.0)(x).round(), images, labels, noise="gaussian", strength=0.02, least=1e-3
    )
    assert (found.status == Status.UNAVAILABLE).all()
    assert found.probability.isnan().all()
    assert found.upper.isnan().all()
    assert not found.below.any()


def test_does_not_depend_on_the_batch_or_the_global_state(robust, digits):
    few = {"noise": "linf", "strength": 0.5, "particles": 4, "moves": 5, "least": 1e-3}
    images, labels, seeds = digits.images[:6], digits.labels[:6], list(range(6))
    before = torch.random.get_rng_state()
    whole = failure_probability(robust, images, labels, seed=seeds, **few)
    assert torch.equal(before, torch.random.get_rng_state())
    for size in (1, 4):
        parts = failure_probability(robust, images, labels, seed=seeds, batch_size=size, **few)
        assert torch.equal(parts.levels, whole.levels)
        assert torch.equal(parts.forward, whole.forward)
    order = [3, 0, 5]
    some = failure_probability(robust, images[order], labels[order], seed=order, **few)
    assert torch.equal(some.levels, whole.levels[order])
    other = failure_probability(robust, images, labels, seed=9, **few)
    assert not torch.equal(other.levels, whole.levels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise": "l7"}, "got noise='l7', expected one of"),
        ({"strength": 0}, "got strength=0"),
        ({"least": 0}, "got least=0"),
        ({"least": 1}, "got least=1, expected a number above 0 and below 1"),
        ({"particles": 1}, "got particles=1"),
        ({"moves": 0}, "got moves=0"),
        ({"confidence": 1.5}, "got confidence=1.5"),
        ({"seed": [1, 2]}, "got 2 seeds for 1 images"),
    ],
)
def test_bad_input_is_refused(robust, digits, wrong, message):
    few = {"noise": "l2", "strength": 0.5}
    with pytest.raises(ValueError, match=message):
        failure_probability(robust, digits.images[:1], digits.labels[:1], **few | wrong)
