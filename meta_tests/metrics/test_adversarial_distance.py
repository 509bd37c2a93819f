"""The adversarial distance against closed forms, published proofs, and what it must not depend on."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from meta_tests.conftest import shared_file
from metrics import Status, adversarial_distance
from metrics.norms import DUAL, vector_norm
from references.linear_models import closed_form, images_near_the_middle, linear_model


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_linear_model(norm, seed):
    weights, bias, model = linear_model(seed)
    images = images_near_the_middle(seed)
    labels = model(images).argmax(dim=1)
    found = adversarial_distance(model, images, labels, norm=norm)
    exact = closed_form(weights, bias, images, labels, norm)
    assert (found.status == Status.ATTACKED).all()
    # Nearer than that, the grid of float32 images is too coarse for a relative error of 1e-4.
    far = exact > {"linf": 2e-3, "l2": 1e-2, "l1": 2e-2}[norm]
    # The model itself rounds: what its logits are off by is a distance when it is divided by the slope.
    size = images.flatten(1).abs() @ weights.abs().T + bias.abs()
    slopes = torch.stack(
        [vector_norm(weights[label] - weights, DUAL[norm])[torch.arange(4) != label].amin() for label in labels]
    )
    eps = torch.finfo(torch.float32).eps
    rounding = 2 * eps * size.amax(dim=1) / slopes
    # Points are put 1e-4 beyond the boundary, and beyond the slack for rounding, see `metrics.passes.rounding_slack`.
    slack = 16 * eps * model(images).abs().amax(dim=1) / slopes
    assert (found.distance.double() <= (1 + 1e-4) * exact + slack)[far].all()
    assert (found.distance.double() >= exact - rounding)[far].all(), "an upper bound may not be below the distance"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linear_model_in_double_precision(norm):
    weights, bias, model = linear_model(3, dtype=torch.float64)
    images = images_near_the_middle(3, dtype=torch.float64)
    labels = model(images).argmax(dim=1)
    found = adversarial_distance(model, images, labels, norm=norm)
    exact = closed_form(weights, bias, images, labels, norm)
    # The direction of the best point may be off by what is left of the noise of a restart: a square of 0.003.
    np.testing.assert_allclose(found.distance, exact, rtol=1e-5)
    assert (found.distance >= exact * (1 - 1e-12)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_model_whose_box_matters(norm):
    # Half of the values are at the end of the box in the direction of the attack: only the others can move.
    generator = torch.Generator().manual_seed(5)
    size = 40
    weights = torch.randn(size, generator=generator)
    image = torch.full((size,), 0.5)
    image[: size // 2] = (weights[: size // 2] < 0).float()  # lowering the margin would leave the box here
    margin = 0.4

    def model(images):
        score = (images.flatten(1) - image) @ weights + margin
        return torch.stack([score, -score], dim=1) / 2

    found = adversarial_distance(model, image.view(1, 1, 5, 8), torch.tensor([0]), norm=norm)
    exact = margin / vector_norm(weights[None, size // 2 :], DUAL[norm])
    np.testing.assert_allclose(found.distance, exact, rtol=2e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("planted", [0.05, 0.2])
def test_planted_radius(norm, planted):
    """Logits (r - |x - c|, |x - c| - r): the distance from the centre is r, in the norm of the model."""
    centre = torch.full((1, 1, 4, 4), 0.5)

    def model(images):
        reach = planted - vector_norm(images - centre, norm)
        return torch.stack([reach, -reach], dim=1)

    start = torch.randn(centre.shape, generator=torch.Generator().manual_seed(0))
    start = centre + 0.3 * planted * start / vector_norm(start, norm)
    exact = planted - float(vector_norm(start - centre, norm))
    found = adversarial_distance(model, start, torch.tensor([0]), norm=norm)
    assert float(found.distance) == pytest.approx(exact, rel=2e-3)
    assert float(found.distance) >= exact * (1 - 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_result_is_what_it_says(robust, digits, norm):
    images, labels = digits.images[:30], digits.labels[:30]
    found = adversarial_distance(robust, images, labels, norm=norm)
    attacked = found.status == Status.ATTACKED
    assert attacked.sum() >= 28
    assert 0 <= float(found.adversarial.min()) <= float(found.adversarial.max()) <= 1
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    difference = (found.adversarial.double() - images.double()).flatten(1).numpy()
    np.testing.assert_allclose(found.distance, np.linalg.norm(difference, order, axis=1), rtol=1e-5)
    # Alone and in any batch, the kept image is classified wrongly.
    with torch.no_grad():
        alone = torch.cat([robust(image[None]) for image in found.adversarial]).argmax(dim=1)
    assert (alone != labels)[attacked].all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_does_not_depend_on_neighbours(robust, digits, norm):
    images, labels = digits.images[:24], digits.labels[:24]
    whole = adversarial_distance(robust, images, labels, norm=norm)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    shuffled = adversarial_distance(robust, images[order], labels[order], norm=norm)
    torch.testing.assert_close(shuffled.distance, whole.distance[order], rtol=0, atol=0)
    parts = adversarial_distance(robust, images, labels, norm=norm, batch_size=7)
    # The last bits of a logit depend on the size of the batch.
    assert (parts.distance / whole.distance - 1)[whole.status == Status.ATTACKED].abs().median() < 1e-3


def test_does_not_touch_global_randomness_or_the_model(digits):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    before = torch.random.get_rng_state()
    adversarial_distance(network, digits.images[:4], digits.labels[:4], norm="l2")
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_of_the_logits_does_not_matter(robust, digits, scale):
    images, labels = digits.images[:12], digits.labels[:12]
    plain = adversarial_distance(robust, images, labels, norm="l2")
    scaled = adversarial_distance(lambda x: scale * robust(x), images, labels, norm="l2")
    torch.testing.assert_close(scaled.distance, plain.distance, rtol=0.01, atol=0)


def test_misclassified_images_have_distance_zero(robust, digits):
    labels = (robust(digits.images[:3]).argmax(dim=1) + 1) % 10
    found = adversarial_distance(robust, digits.images[:3], labels, norm="linf")
    assert found.status.tolist() == [Status.MISCLASSIFIED] * 3
    assert found.distance.tolist() == [0, 0, 0]
    assert found.backward.tolist() == [0, 0, 0], "nothing is spent on them"


def test_images_without_an_adversarial_example_are_censored():
    def constant(images):
        return images.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([2.0, 0.0])

    found = adversarial_distance(constant, torch.rand(2, 1, 3, 3), torch.tensor([0, 0]), norm="linf")
    assert found.status.tolist() == [Status.CENSORED] * 2
    assert found.distance.isinf().all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_masked_gradients_do_not_stop_it(robust, digits, norm):
    """Rounded logits have no gradient at all: a distance is found without, verified, and not below the true one."""

    def rounded(images):
        return (robust(images) / 0.5).round() * 0.5

    images, labels = digits.images[:20], digits.labels[:20]
    masked = adversarial_distance(rounded, images, labels, norm=norm)
    open_ = adversarial_distance(robust, images, labels, norm=norm, effort="thorough")
    correct = (masked.status != Status.MISCLASSIFIED) & (open_.status == Status.ATTACKED)
    assert (masked.status == Status.ATTACKED)[correct].float().mean() >= 0.95
    # Rounding moves a boundary by half a unit at most; it does not make distances collapse.
    assert (masked.distance[correct] >= 0.5 * open_.distance[correct]).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_more_effort_finds_nearer_points(robust, digits, norm):
    images, labels = digits.images[:20], digits.labels[:20]
    quick, default, thorough = (
        adversarial_distance(robust, images, labels, norm=norm, effort=effort)
        for effort in ("quick", "default", "thorough")
    )
    assert quick.distance.sum() >= 0.999 * default.distance.sum() >= 0.998 * thorough.distance.sum()
    for found, most in ((quick, 40), (default, 200), (thorough, 1000)):
        assert int(torch.maximum(found.forward, found.backward).max()) <= most


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_passes_are_counted_exactly(norm):
    """Against a count of the rows that the model sees, and of the rows whose gradient is asked for."""
    seen = {"forward": 0, "backward": 0}
    _, _, linear = linear_model(0)

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(context, images):
            seen["forward"] += len(images)
            return images.clone()

        @staticmethod
        def backward(context, gradient):
            seen["backward"] += len(gradient)
            return gradient

    def model(images):
        return linear(Counting.apply(images))

    images = images_near_the_middle(0)
    labels = linear(images).argmax(dim=1)
    found = adversarial_distance(model, images, labels, norm=norm, batch_size=5)
    assert int(found.forward.sum()) == seen["forward"]
    assert int(found.backward.sum()) == seen["backward"]


@pytest.mark.slow
def test_published_proofs_are_not_contradicted():
    """VNN-COMP 2021: no image may have an adversarial example at a distance that verifiers have excluded."""
    rows = list(csv.DictReader(shared_file("truth/mnist_verdicts.csv").open()))
    raw = np.load(shared_file("truth/mnist_images.npz"))["images"]
    checked = {"verified": 0, "falsified": 0}
    for name in {row["network"] for row in rows}:
        weights = load_file(shared_file(f"truth/{name.removesuffix('.safetensors')}.safetensors"))
        layers = [nn.Flatten()]
        for number in sorted({int(key.split(".")[0]) for key in weights}):
            matrix = weights[f"{number}.weight"]
            layers += [nn.Linear(matrix.shape[1], matrix.shape[0]), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        network.load_state_dict(weights)
        mine = [row for row in rows if row["network"] == name]
        images = torch.stack([torch.from_numpy(raw[int(row["image"])]) for row in mine]).float() / 255
        images = images.view(len(mine), 1, 28, 28)
        labels = torch.tensor([int(row["label"]) for row in mine])
        found = adversarial_distance(network.eval(), images, labels, norm="linf", effort="thorough")
        for row, distance in zip(mine, found.distance.tolist(), strict=True):
            checked[row["verdict"]] += 1
            if row["verdict"] == "verified":
                assert distance > float(row["epsilon"]) - 1e-6, row
            else:
                # A counterexample exists there; an attack of this kind should come near it.
                assert distance <= 1.1 * float(row["counterexample_linf"]), row
    assert checked == {"verified": 30, "falsified": 18}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "norm", "published"),
    [("standard", "linf", 0.0049), ("adv", "linf", 0.0173), ("standard", "l2", 0.197), ("adv", "l2", 0.565)],
)
def test_median_on_real_networks(cifar10, cifar10_network, training, norm, published):
    """Medians that several attacks of other libraries found on 64 images of CIFAR-10: the scale of the pixels is right.

    It is not known which 64 images; medians of 64 neighbours among the first 1,000 spread over a factor of 1.5.
    """
    network = cifar10_network(f"cnn_a_{training}")
    with torch.no_grad():
        right = (network(cifar10.images).argmax(dim=1) == cifar10.labels).nonzero().flatten()[::2]
    found = adversarial_distance(network, cifar10.images[right], cifar10.labels[right], norm=norm, effort="quick")
    assert (found.status == Status.ATTACKED).all()
    assert published / 1.5 < float(found.distance.median()) < published * 1.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "norm", "best_of_peers"),
    [
        ("standard", "linf", 0.004366),
        ("standard", "l2", 0.173301),
        ("standard", "l1", 2.172322),
        ("adv", "linf", 0.016432),
        ("adv", "l2", 0.520239),
        ("adv", "l1", 4.669426),
    ],
)
def test_mean_is_below_the_best_of_other_libraries(cifar10, cifar10_network, training, norm, best_of_peers):
    """Of the smallest distance that any attack of ART, foolbox and pyautoattack found for each image.

    The first 64 images that are classified correctly, 1,000 + 1,000 passes for each attack: the run of
    `benchmarks/adversarial_distance.py` that its README shows.
    """
    network = cifar10_network(f"cnn_a_{training}")
    with torch.no_grad():
        right = (network(cifar10.images[:192]).argmax(dim=1) == cifar10.labels[:192]).nonzero().flatten()[:64]
    found = adversarial_distance(network, cifar10.images[right], cifar10.labels[right], norm=norm)
    assert float(found.distance.mean()) < best_of_peers
    assert float(found.forward.float().mean()) <= 200
    assert float(found.backward.float().mean()) <= 200
