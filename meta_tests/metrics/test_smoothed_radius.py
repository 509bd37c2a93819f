"""Randomized smoothing: closed forms of linear and constant models, coverage, and what stops when."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from metrics import Status, smoothed_radius
from metrics.smoothed_radius import _certify, radius_of


def linear(weights):
    return lambda images: images.flatten(1) @ torch.tensor(weights, dtype=images.dtype).T


WEIGHTS = [[1.0, 0.5, -0.2, 0.3], [-0.4, 1.0, 0.1, 0.2]]


@pytest.mark.parametrize("clamp", [False, True])
def test_radius_of_a_linear_model_comes_near_to_its_distance(clamp):
    """The share of right votes is Phi(distance / sigma): the radius is the distance, less some of it."""
    images = torch.tensor([[0.5, 0.4, 0.5, 0.5], [0.55, 0.4, 0.45, 0.5], [0.4, 0.6, 0.5, 0.5]], dtype=torch.float64)
    images = images.view(3, 1, 2, 2)
    sigma, samples = 0.1, 100_000
    model = linear(WEIGHTS)
    logits = model(images)
    labels = logits.argmax(dim=1)
    normal = torch.tensor(WEIGHTS[0], dtype=torch.float64) - torch.tensor(WEIGHTS[1], dtype=torch.float64)
    distance = (logits[:, 0] - logits[:, 1]).abs() / normal.norm()
    found = smoothed_radius(model, images, labels, sigma=sigma, samples=samples, clamp=clamp, batch_size=10_000)
    assert found.status.tolist() == [Status.CERTIFIED] * 3
    assert (found.radius < distance).all(), "wrong in one of a thousand cases, and not with this seed"
    # The bound is some 3.1 standard deviations of a share below it.
    share = torch.special.ndtr(distance / sigma)
    below = 6.5 * sigma * (share * (1 - share) / samples).sqrt() / torch.exp(-((distance / sigma) ** 2) / 2) * 2.5066
    assert (distance - found.radius < below).all()


@pytest.mark.parametrize("samples", [1, 10, 100, 1_000, 10_000])
def test_constant_model_has_the_cap_of_the_sample(samples):
    """All votes for one class: the bound of its share is alpha^(1 / n), whatever the image."""

    def model(images):
        return torch.tensor([1.0, 0.0, -1.0]).expand(len(images), 3) + 0 * images.sum()

    image = torch.full((1, 1, 2, 2), 0.5)
    found = smoothed_radius(model, image, torch.tensor([0]), sigma=0.25, samples=samples)
    share = 0.001 ** (1 / samples)
    cap = 0.25 * stats.norm.ppf(share) if share > 0.5 else 0
    assert float(found.radius) == pytest.approx(cap, rel=1e-9)
    assert found.status.tolist() == [Status.CERTIFIED if share > 0.5 else Status.ABSTAINED]
    assert (int(found.votes), int(found.samples)) == (samples, samples)
    assert int(found.forward) == 2 + 100 + samples


@pytest.mark.parametrize(("samples", "factor"), [(100, 1.50), (1_000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_published_caps(samples, factor):
    """In units of sigma, alpha = 0.001: figure 10 of the paper has about 3.8 for its 100,000 samples."""
    assert radius_of(0.001 ** (1 / samples), 1.0) == pytest.approx(factor, abs=0.005)


class Coin:
    """Votes for class 0 with a given probability."""

    def __init__(self, share, seed):
        self.share, self.random = share, np.random.default_rng(seed)

    def count(self, copies):
        votes = int(self.random.binomial(copies, self.share))
        return torch.tensor([votes, copies - votes])


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.55, 0.9, 0.99])
@pytest.mark.parametrize("sizes", [[1_000], [200, 500, 1_000]])
def test_bound_covers_as_often_as_it_says(share, sizes):
    """2,000 repeats at alpha = 0.05, stopping early as well: the bound is above the truth in 5 % at most."""
    sigma, alpha, repeats = 1.0, 0.05, 2_000
    wanted = [radius_of(share, sigma), 0.9 * radius_of(share, sigma)]
    found = [_certify(Coin(share, seed), sizes, 100, alpha, sigma, wanted) for seed in range(repeats)]
    wrong = sum(vote.predicted == 0 and vote.share > share for vote in found)
    assert wrong <= alpha * repeats + 3 * math.sqrt(alpha * (1 - alpha) * repeats)
    if sizes == [1_000] and share > 0.6:
        assert wrong > 0.02 * repeats, "a bound that is never wrong is not the best one"


def test_sampling_stops_where_the_verdict_is_decided():
    """Clear yes, clear no, and in between: there the whole sample is needed."""
    sizes = [100, 1_000]
    assert _certify(Coin(1.0, 0), sizes, 10, 0.001, 1.0, [0.5, 1.0]).samples == 100
    assert _certify(Coin(0.75, 0), sizes, 10, 0.001, 1.0, [1.5]).samples == 100
    assert _certify(Coin(0.95, 0), sizes, 10, 0.001, 1.0, [1.5]).samples == 1_000
    assert _certify(Coin(1.0, 0), sizes, 10, 0.001, 1.0, []).samples == 1_000, "nothing asked, nothing decided"


def test_wrong_class_and_close_vote():
    """The class is that of the vote: sure of another than the label, or not sure of any."""
    image = torch.tensor([[0.7, 0.5], [0.6001, 0.6]]).view(2, 1, 1, 2)
    labels = torch.tensor([1, 0])
    found = smoothed_radius(linear([[1.0, 0.0], [0.0, 1.0]]), image, labels, sigma=0.1, samples=500)
    assert found.status.tolist() == [Status.MISCLASSIFIED, Status.ABSTAINED]
    assert found.radius.tolist() == [0, 0]
    assert int(found.predicted[0]) == 0


def test_image_has_the_same_votes_in_any_batch(robust, digits):
    images, labels = digits.images[:3], digits.labels[:3]
    seeds = [3, 4, 5]
    options = {"sigma": 0.3, "samples": 250}
    together = smoothed_radius(robust, images, labels, seed=seeds, batch_size=70, **options)
    for row in range(3):
        part = slice(row, row + 1)
        alone = smoothed_radius(robust, images[part], labels[part], seed=seeds[part], batch_size=1_000, **options)
        assert (alone.votes, alone.radius) == (together.votes[part], together.radius[part])
    other = smoothed_radius(robust, images, labels, seed=6, **options)
    assert not torch.equal(other.votes, together.votes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sigma": 0}, "got sigma=0, expected a finite number above 0"),
        ({"sigma": math.nan}, "got sigma=nan"),
        ({"samples": 0}, "got samples=0, expected a whole number, 1 or more"),
        ({"samples": (100, 100)}, r"got samples=\(100, 100\), expected .* several that increase"),
        ({"samples": ()}, r"got samples=\(\)"),
        ({"alpha": 1}, "got alpha=1, expected a number between 0 and 1"),
        ({"radii": [0.5, -1]}, "got radii=-1"),
        ({"choosing": 0}, "got choosing=0"),
    ],
)
def test_bad_arguments(wrong, message):
    image = torch.full((1, 1, 1, 2), 0.5)
    with pytest.raises(ValueError, match=message):
        smoothed_radius(linear([[1.0, 0.0], [0.0, 1.0]]), image, torch.tensor([0]), **{"sigma": 0.1, **wrong})


def test_gate_certifies_the_smoothed_classifier(gate):
    """In L2 only, for the norms of a run; stored like every metric."""
    arguments = ("--quick", "--images", "4", "robustness_tests/test_smoothing.py")
    gate("-n2", *arguments)
    records = {record["test"].partition("::")[2]: record for record in gate.results()["records"]}
    assert set(records) == {
        "test_smoothed_accuracy[robust-standard-digits-l2-0.25]",
        "test_smoothed_accuracy[robust-standard-digits-l2-0.5]",
        "test_candidate_beats_reference_in_smoothed_radius[robust-standard-digits-l2]",
    }
    for record in records.values():
        assert record["about"]["concern"] == "model"
        assert record["values"]["condition"] == "sigma 0.25"
    assert "l2 0.5, sigma 0.25" in (gate.results_folder / "report.html").read_text()
    assert 8 * 2 < gate.results()["passes"]["forward"] <= 8 * (2 + 100 + 1_000)
    gate("-n0", *arguments)
    assert gate.results()["measurements"] == {"measured": 0, "stored": 1}
    skipped = gate("-n0", *arguments, "--norms", "linf")
    skipped.assert_outcomes(skipped=2)
    assert "smoothed radii are for l2" in gate.results()["records"][0]["message"]
