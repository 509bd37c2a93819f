"""The exact distance: against every linear piece, and against a solver that lies."""

import numpy as np
import pytest
import scipy
import torch
from torch import nn

from metrics import Status, adversarial_distance, certified_distance, exact_distance
from references.linear_pieces import exact_distance as by_enumeration
from references.linear_pieces import network as small_network
from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.models import bundled


@pytest.fixture(scope="module")
def mlp(digits):
    return bundled(MODELS["digits", "mlp"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_every_linear_piece(seed):
    layers = small_network(seed)
    images = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = layers(images).argmax(dim=1)
    found = exact_distance(layers, images, labels)
    both = zip(images, labels.tolist(), strict=True)
    truth = torch.tensor([by_enumeration(layers, image, label, "linf") for image, label in both], dtype=torch.float64)
    somewhere = truth.isfinite()
    assert (found.status[somewhere] == Status.EXACT).all()
    assert torch.allclose(found.distance[somewhere], truth[somewhere], rtol=1e-4, atol=1e-5)
    assert (found.lower <= truth + 1e-9).all()
    assert (found.upper >= truth - 1e-5).all()
    assert (found.status[~somewhere] == Status.UNAVAILABLE).all()
    for norm in ("linf", "l2"):
        both = zip(images, labels.tolist(), strict=True)
        exact = torch.tensor([by_enumeration(layers, image, label, norm) for image, label in both])
        certified = certified_distance(layers, images, labels, norm=norm).distance
        assert (certified <= exact * (1 + 1e-9)).all()


@pytest.mark.slow
def test_digits(mlp, digits):
    """The image that is returned is what it says, and nothing contradicts anything."""
    images, labels = digits.images[:8], digits.labels[:8]
    attacked = adversarial_distance(mlp, images, labels, norm="linf")
    certified = certified_distance(mlp, images, labels, norm="linf")
    found = exact_distance(mlp, images, labels, adversarial=attacked.adversarial, certified=certified.distance)
    right = found.status == Status.EXACT
    assert int(right.sum()) >= 7
    assert (certified.distance <= found.distance)[right].all()
    assert (found.distance <= attacked.distance)[right].all()
    assert (attacked.distance / found.distance)[right].mean() <= 1.003
    assert (certified.distance / found.distance)[right].median() >= 0.75
    assert ((found.upper - found.lower) / found.distance)[right].max() <= 1e-3
    with torch.no_grad():
        assert (mlp(found.adversarial[right]).argmax(dim=1) != labels[right]).all()
    reached = (found.adversarial - images).abs().flatten(1).amax(dim=1)
    assert torch.allclose(reached[right], found.upper[right])


@pytest.mark.slow
def test_a_bad_attack_does_not_matter(mlp, digits):
    """With images of the box's far corner for adversarial ones, or with none at all, the distance is the same."""
    images, labels = digits.images[2:3], digits.labels[2:3]
    good = exact_distance(mlp, images, labels)
    far = 1 - images.round()
    for adversarial in (far, images):
        found = exact_distance(mlp, images, labels, adversarial=adversarial, time_limit=120)
        assert found.status.tolist() == [Status.EXACT]
        assert torch.allclose(found.distance, good.distance, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e-2, 1e4])
@pytest.mark.parametrize("layer", [1, 3])
def test_the_scale_of_a_layer_does_not_matter(scale, layer):
    """The solver's tolerance is absolute: small logits, and small values of a hidden layer, would be lost in it."""
    layers = small_network(3)
    images = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = layers(images).argmax(dim=1)
    before = exact_distance(layers, images, labels)
    layers[layer].weight.mul_(scale)
    layers[layer].bias.mul_(scale)
    if layer == 1:
        layers[3].weight.div_(scale)
    after = exact_distance(layers, images, labels)
    assert (after.status == Status.EXACT).all()
    assert torch.allclose(before.distance, after.distance, rtol=1e-4)


def test_limit_on_time(mlp, digits):
    images, labels = digits.images[2:5], digits.labels[2:5]
    found = exact_distance(mlp, images, labels, time_limit=1e-3)
    assert (found.status == Status.CENSORED).all()
    assert found.distance.isnan().all()
    assert (found.lower > 0).all()
    assert (found.lower <= found.upper).all()
    assert all("limit" in reason for reason in found.reasons)


def test_a_certificate_that_lies(mlp, digits):
    images, labels = digits.images[2:3], digits.labels[2:3]
    found = exact_distance(mlp, images, labels, certified=torch.tensor([0.9]))
    assert found.status.tolist() == [Status.UNAVAILABLE]
    assert "one of both is wrong" in found.reasons[0]


def test_misclassified_whatever_the_network():
    network = Shortcut().eval()
    images = torch.rand(2, 1, 3, 3)
    labels = network(images).argmax(dim=1)
    found = exact_distance(network, images, torch.stack([labels[0], (labels[1] + 1) % 3]))
    assert found.status.tolist() == [Status.UNAVAILABLE, Status.MISCLASSIFIED]
    assert found.distance[1] == 0


class Lie:
    """What the solver returns instead."""

    def __init__(self, found, **changes):
        self.x, self.status = found.x, found.status
        self.mip_dual_bound = getattr(found, "mip_dual_bound", None)
        for name, value in changes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"status": 2, "x": None}, "above the distance of an adversarial example"),
        ({"mip_dual_bound": 0.9}, "above the distance of an adversarial example"),
        ({"x": "the clean image"}, "not of the class"),
    ],
    ids=["infeasible", "bound", "image"],
)
def test_a_solver_that_lies(mlp, digits, monkeypatch, lie, reason):
    images, labels = digits.images[2:3], digits.labels[2:3]
    solve = scipy.optimize.milp

    def lying(*arguments, **keywords):
        found = solve(*arguments, **keywords)
        changes = dict(lie)
        if "x" in changes and changes["x"] is not None:
            clean = images.flatten().double().numpy()
            changes["x"] = None if found.x is None else np.concatenate([found.x[:1], clean, found.x[65:]])
        return Lie(found, **changes)

    monkeypatch.setattr(scipy.optimize, "milp", lying)
    found = exact_distance(mlp, images, labels)
    assert found.status.tolist() == [Status.UNAVAILABLE]
    assert found.distance.isnan().all()
    assert reason in found.reasons[0]
    assert found.lower <= found.upper


def test_small_convolutions_are_layers_too():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 4), nn.ReLU(),
        nn.Linear(4, 3),
    ).eval().requires_grad_(False)  # fmt: skip
    images = torch.rand(4, 1, 3, 3)
    labels = network(images).argmax(dim=1)
    found = exact_distance(network, images, labels)
    attacked = adversarial_distance(network, images, labels, norm="linf", effort="thorough")
    solved = found.status == Status.EXACT
    assert (solved == (attacked.status == Status.ATTACKED)).all()
    assert (found.distance <= attacked.distance)[solved].all()
    assert (found.distance >= 0.98 * attacked.distance)[solved].all()


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(9, 9), nn.Linear(9, 3)

    def forward(self, images):
        flat = images.flatten(1)
        return self.last(flat + self.first(flat).relu())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Shortcut(), "without shortcuts"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 3)), "not for tanh"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2001), nn.ReLU(), nn.Linear(2001, 3)), "got 2001"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.LogSoftmax(dim=1)), "softmax"),
    ],
    ids=["shortcut", "tanh", "large", "softmax"],
)
def test_what_there_is_no_exact_distance_for(network, reason):
    network.eval().requires_grad_(False)
    images = torch.rand(2, 1, 3, 3)
    found = exact_distance(network, images, network(images).argmax(dim=1))
    assert (found.status == Status.UNAVAILABLE).all()
    assert found.distance.isnan().all()
    assert all(reason in one for one in found.reasons)


def test_bad_arguments(mlp, digits):
    images, labels = digits.images[:2], digits.labels[:2]
    for arguments, message in (
        ({"norm": "l2"}, "got norm='l2'"),
        ({"time_limit": 0}, "got time_limit=0"),
        ({"adversarial": images[:1]}, "got adversarial images"),
        ({"certified": torch.zeros(3)}, "got certified distances"),
        ({"certified": torch.tensor([0, 0])}, "got certified distances"),
        ({"certified": torch.tensor([-1.0, 0])}, "got certified distances below 0"),
        ({"certified": torch.tensor([2.0, 0])}, "got certified distances below 0 or above 1"),
        ({"adversarial": [1]}, "got adversarial images"),
        ({"certified": [0.1, 0.1]}, "got certified distances of list"),
        ({"adversarial": images + 0.5}, "got image values"),
        ({"adversarial": images.double()}, "got adversarial images of torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            exact_distance(mlp, images, labels, **arguments)


def test_patience_ends(mlp, digits):
    """Nothing is solved in a microsecond: after two images the others are not tried, and say so."""
    images, labels = digits.images[:6], digits.labels[:6]
    found = exact_distance(mlp, images, labels, time_limit=1e-6, patience=2)
    tried = [status for status in found.status.tolist() if status != Status.MISCLASSIFIED]
    assert tried[:2] == [Status.CENSORED] * 2
    assert set(tried[2:]) == {Status.UNAVAILABLE}
    assert "not tried: 2 images before it hit the limit" in found.reasons[-1]
    with pytest.raises(ValueError, match="got patience=0"):
        exact_distance(mlp, images, labels, patience=0)
