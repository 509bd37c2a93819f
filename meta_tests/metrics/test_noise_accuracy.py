"""Accuracy under random noise: samples against their moments and marginals, linear models against a closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from metrics import noise_accuracy
from metrics.noise_accuracy import unit_noise
from metrics.norms import NORMS, vector_norm
from metrics.statistics import mean_share, share

SAMPLINGS = ("ball", "sphere")


def drawn(count, size, norm, sampling, seed=0):
    return unit_noise(count, (1, 1, size), norm, sampling, torch.Generator().manual_seed(seed), torch.float64).flatten(
        1
    )


@pytest.mark.parametrize("size", [1, 2, 5, 50])
@pytest.mark.parametrize("norm", NORMS)
def test_lengths_are_those_of_the_law(norm, size):
    """In the ball, the d-th power of the length is uniform; on the sphere, the length is 1."""
    inside = vector_norm(drawn(4000, size, norm, "ball"), norm).numpy() ** size
    assert stats.kstest(inside, "uniform").pvalue > 0.001
    assert np.allclose(vector_norm(drawn(100, size, norm, "sphere"), norm), 1, atol=1e-12)


def test_a_value_on_the_l2_sphere_has_its_beta_law():
    """The square of one coordinate is Beta(1/2, (d - 1) / 2)."""
    squares = drawn(4000, 6, "l2", "sphere")[:, 0].numpy() ** 2
    assert stats.kstest(squares, stats.beta(0.5, 2.5).cdf).pvalue > 0.001


def test_a_value_on_the_l1_sphere_has_its_beta_law():
    """The magnitude of one coordinate is Beta(1, d - 1), and signs are fair."""
    values = drawn(4000, 6, "l1", "sphere")[:, 0].numpy()
    assert stats.kstest(np.abs(values), stats.beta(1, 5).cdf).pvalue > 0.001
    assert stats.binomtest(int((values > 0).sum()), 4000).pvalue > 0.001


def test_the_linf_sphere_is_the_surface_of_the_cube():
    """One value is at the end, all equally often, and the others are uniform."""
    points = drawn(4000, 3, "linf", "sphere")
    largest = points.abs().argmax(dim=1)
    assert stats.chisquare(np.bincount(largest.numpy(), minlength=3)).pvalue > 0.001
    others = points[largest == 0][:, 1].numpy()
    assert stats.kstest(others, stats.uniform(-1, 2).cdf).pvalue > 0.001


def linear(size, offset):
    """Class 0 where the sum of the values is above `offset`."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, 2))
    network[1].weight.data = torch.stack([torch.ones(size), -torch.ones(size)])
    network[1].bias.data = torch.tensor([-offset, offset])
    return network.eval()


def test_linear_model_has_the_accuracy_of_its_closed_form():
    """One value, uniform noise in [-e, e]: the label is kept with probability (e + margin) / (2 e)."""
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    found = noise_accuracy(
        linear(1, 0.4), image, label, norm="linf", epsilons=[0.05, 0.2, 0.4], sampling="ball", samples=20000
    )
    expected = [1.0, 0.75, 0.625]
    assert found.accuracy[0].tolist() == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 20000))


def test_l2_sphere_against_a_plane():
    """The share of a sphere beyond a plane: the regularised incomplete beta function of the height of the cap."""
    size, radius, height = 16, 0.2, 0.05
    image, label = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    offset = 0.5 * size - height * math.sqrt(size)
    found = noise_accuracy(linear(size, offset), image, label, norm="l2", epsilons=[radius], samples=20000)
    beyond = 0.5 * stats.beta((size - 1) / 2, 0.5).cdf(1 - (height / radius) ** 2)
    assert float(found.accuracy) == pytest.approx(1 - beyond, abs=4 * math.sqrt(0.25 / 20000))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_numbers_of_an_image_do_not_depend_on_the_batch(robust, digits, norm, sampling):
    images, labels = digits.images[:7], digits.labels[:7]
    arguments = {"norm": norm, "epsilons": [0.2, 0.4], "sampling": sampling, "samples": 6}
    every = noise_accuracy(robust, images, labels, seed=list(range(7)), **arguments)
    small = noise_accuracy(robust, images, labels, seed=list(range(7)), batch_size=6, **arguments)
    alone = noise_accuracy(robust, images[3:4], labels[3:4], seed=[3], **arguments)
    assert torch.equal(every.accuracy, small.accuracy)
    assert torch.equal(every.accuracy[3:4], alone.accuracy)
    assert every.forward.tolist() == [2 + 2 * 6] * 7


def test_images_stay_in_the_box_and_memory_is_halved():
    seen = []

    def model(images):
        if len(images) > 8:
            raise torch.OutOfMemoryError("too many")
        seen.append((float(images.min()), float(images.max())))
        return images.flatten(1)[:, :2]

    images, labels = (
        torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(5, dtype=torch.long),
    )
    found = noise_accuracy(model, images, labels, norm="linf", epsilons=[3.0], samples=4)
    assert min(lower for lower, _ in seen) >= 0
    assert max(upper for _, upper in seen) <= 1
    whole = noise_accuracy(lambda some: some.flatten(1)[:, :2], images, labels, norm="linf", epsilons=[3.0], samples=4)
    assert torch.equal(found.accuracy, whole.accuracy)


def test_misclassified_images_are_counted_as_they_are():
    """Noise may even help: there is no convention to hide it."""
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([1])
    found = noise_accuracy(
        linear(1, 0.4), image, label, norm="linf", epsilons=[0.01, 0.4], sampling="ball", samples=1000
    )
    assert found.accuracy[0, 0] == 0
    assert 0.3 < found.accuracy[0, 1] < 0.45
    assert not found.clean.any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm": "l7"}, "got norm='l7'"),
        ({"sampling": "cube"}, "got sampling='cube', expected one of 'ball', 'sphere'"),
        ({"epsilons": []}, "expected one or more positive numbers"),
        ({"epsilons": [0.1, -1]}, "expected one or more positive numbers"),
        ({"epsilons": 0.1}, "expected one or more positive numbers"),
        ({"epsilons": [math.nan]}, "expected one or more positive numbers"),
        ({"samples": 0}, "got samples=0, expected a whole number, 1 or more"),
        ({"batch_size": 0}, "got batch_size=0"),
        ({"seed": -1}, "got seed -1"),
    ],
)
def test_bad_input_is_refused(robust, digits, changed, message):
    arguments = {"norm": "l2", "epsilons": [0.5], **changed}
    with pytest.raises(ValueError, match=message):
        noise_accuracy(robust, digits.images[:2], digits.labels[:2], **arguments)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(deadline=None)
def test_interval_of_a_mean_share_holds_it(shares):
    found = mean_share(shares)
    assert 0 <= found.lower <= found.value + 1e-12
    assert found.value - 1e-12 <= found.upper <= 1


def test_interval_of_zeros_and_ones_is_that_of_a_share():
    for successes in (0, 1, 7, 20):
        ours, theirs = mean_share([1.0] * successes + [0.0] * (20 - successes)), share(successes, 20)
        assert (ours.value, ours.lower, ours.upper) == pytest.approx(
            (theirs.value, theirs.lower, theirs.upper), abs=1e-9
        )


@pytest.mark.parametrize(
    "distribution", [stats.uniform(), stats.beta(0.2, 0.4), stats.beta(8, 0.5), stats.bernoulli(0.9)]
)
def test_interval_covers_at_least_as_often_as_it_says(distribution):
    """Means of 20 images whose shares have this distribution, 1,000 times."""
    rows = distribution.rvs(size=(1000, 20), random_state=0)
    intervals = [mean_share(row) for row in rows]
    covered = sum(interval.lower <= distribution.mean() <= interval.upper for interval in intervals)
    assert covered >= 940, f"{covered} of 1,000"
