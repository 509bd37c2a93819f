"""Second-order CLEVER and its curvature, against closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import Status, adversarial_distance, clever, second_order_clever
from metrics.curvature import curvatures
from references.linear_models import closed_form, images_near_the_middle, linear_model

FEW = {"blocks": 4, "block_size": 4}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), size=st.integers(1, 9))
def test_curvature_is_the_smallest_eigenvalue(seed, size):
    random = torch.Generator().manual_seed(seed)
    matrices = torch.randn(5, size, size, generator=random, dtype=torch.double)
    matrices = matrices + matrices.mT
    found = curvatures(
        lambda v: (matrices @ v[:, :, None]).squeeze(2),
        torch.randn(5, size, generator=random, dtype=torch.double),
        size,
    )
    exact = (-torch.linalg.eigvalsh(matrices)[:, 0]).clamp_min(0)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("eigenvalues", [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [-3.0, -3.0, -3.0], [5.0, -1.0, 0.0]])
def test_curvature_of_few_different_eigenvalues(eigenvalues):
    matrix = torch.diag(torch.tensor(eigenvalues))
    found = curvatures(lambda v: v @ matrix, torch.tensor([[1.0, 2.0, 3.0]]), iterations=10)
    assert float(found) == pytest.approx(max(0.0, -min(eigenvalues)), abs=1e-5)


def test_fewer_iterations_stay_inside():
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 40, generator=random, dtype=torch.double)
    matrix = matrix + matrix.T
    start = torch.randn(1, 40, generator=random, dtype=torch.double)
    found = [float(curvatures(lambda v: v @ matrix, start, steps)) for steps in (2, 5, 10, 20, 40)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(float(-torch.linalg.eigvalsh(matrix)[0]))
    assert found[2] > 0.9 * found[-1]


def quadratic(seed, size=6):
    """Margin 1 - g.z - z.H z / 2 around the middle of the box: slope |g|, curvature the largest eigenvalue of H."""
    random = torch.Generator().manual_seed(seed)
    gradient = torch.randn(size, generator=random)
    root = torch.randn(size, size, generator=random)
    hessian = root + root.T

    def model(images):
        z = images.flatten(1) - 0.5
        margin = 1 - z @ gradient - ((z @ hessian) * z).sum(dim=1) / 2
        return torch.stack([margin, torch.zeros_like(margin)], dim=1) - 3

    return model, float(gradient.norm()), float(torch.linalg.eigvalsh(hessian)[-1].clamp_min(0))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_quadratic_model(seed):
    model, slope, curvature = quadratic(seed)
    image = torch.full((1, 1, 2, 3), 0.5)
    found = second_order_clever(model, image, torch.tensor([0]), radius=100.0, **FEW)
    assert float(found.slope) == pytest.approx(slope, rel=1e-4)
    assert float(found.curvature) == pytest.approx(curvature, rel=1e-3)
    root = np.roots([curvature / 2, slope, -1])
    assert float(found.score) == pytest.approx(float(root[root > 0].real.min()), rel=1e-3)
    assert int(found.status) == Status.ESTIMATED


@pytest.mark.parametrize("targets", ["all", "top-2"])
def test_linear_model(targets):
    weights, bias, model = linear_model(2)
    images = images_near_the_middle(2)
    labels = model(images).argmax(dim=1)
    found = second_order_clever(model, images, labels, radius=10.0, targets=targets, **FEW)
    exact = closed_form(weights, bias, images, labels, "l2")
    if targets == "all":
        clear = exact > 1e-3
        torch.testing.assert_close(found.score[clear].double(), exact[clear].double(), rtol=1e-4, atol=0)
    assert (found.score >= exact - 1e-4).all()
    assert not found.not_smooth.any(), "nothing bends, and nothing has kinks"
    assert found.curvature.tolist() == pytest.approx([0] * 8, abs=1e-6)


def smooth_network(activation):
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(32, 64, generator=random) / 4, torch.randn(10, 32, generator=random) / 2
    return lambda images: activation(images.flatten(1) @ first.T) @ second.T


def test_is_larger_than_the_first_order_and_below_the_distance(digits):
    model = smooth_network(torch.tanh)
    images = digits.images[:20]
    labels = model(images).argmax(dim=1)
    distance = adversarial_distance(model, images, labels, norm="l2").distance
    first = clever(model, images, labels, norm="l2", radius=2.0, blocks=20, block_size=16).score
    found = second_order_clever(model, images, labels, radius=2.0, targets="all", blocks=10, block_size=4)
    assert (found.score <= distance).all()
    assert float((found.score / first).median()) > 1
    assert (found.lower <= found.score).all()
    assert (found.score <= found.upper).all()


def test_piecewise_linear_networks_have_no_score(digits):
    model = smooth_network(torch.relu)
    labels = model(digits.images[:5]).argmax(dim=1)
    found = second_order_clever(model, digits.images[:5], labels, radius=2.0, **FEW)
    assert found.not_smooth.all()
    assert (found.status == Status.UNAVAILABLE).all()
    assert found.score.isnan().all()
    assert (found.target == -1).all()


@pytest.mark.parametrize("layer", ["tanh", "division"])
def test_kinks_are_found_under_smooth_layers(digits, layer):
    network = smooth_network(torch.relu)

    def model(images):
        logits = network(images)
        if layer == "tanh":
            return logits + 1e-6 * logits.tanh()
        return logits / (1 + images.mean(dim=(1, 2, 3))[:, None] ** 2)

    labels = model(digits.images[:10]).argmax(dim=1)
    found = second_order_clever(model, digits.images[:10], labels, radius=2.0, blocks=10, block_size=8)
    assert found.not_smooth.double().mean() >= 0.8


def test_curvature_at_the_image_counts():
    """A bump of width 0.05 around the image: flat where the samples of 64 pixels fall, curvature 400 at the image."""

    def model(images):
        bump = torch.exp(-((images.flatten(1) - 0.5) ** 2).sum(dim=1) / 2 / 0.05**2)
        return torch.stack([bump - 0.5, 0 * bump], dim=1) - 3

    image = torch.full((1, 1, 8, 8), 0.5005)
    found = second_order_clever(model, image, torch.tensor([0]), radius=1.0, **FEW)
    distance = adversarial_distance(model, image, torch.tensor([0]), norm="l2").distance
    assert float(found.curvature) == pytest.approx(400, rel=0.05)
    assert found.score <= distance


def test_flat_and_broken_models_have_no_score(digits):
    flat = second_order_clever(
        lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2) * 5,
        digits.images[:1],
        torch.tensor([0]),
        radius=1.0,
        **FEW,
    )
    assert bool(flat.zero_gradient)
    assert int(flat.status) == Status.UNAVAILABLE

    def broken(images):
        value = images.flatten(1).sum(dim=1)
        return torch.stack([3 + (value - value).abs().sqrt(), 0 * value], dim=1)

    found = second_order_clever(broken, digits.images[:1], torch.tensor([0]), radius=1.0, **FEW)
    assert bool(found.broken_gradient)
    assert found.score.isnan().all()


def test_statuses_neighbours_and_passes(digits):
    model = smooth_network(torch.nn.functional.softplus)
    images = digits.images[:6]
    labels = model(images).argmax(dim=1)
    labels[2] = (labels[2] + 1) % 10
    few = FEW | {"radius": 2.0, "iterations": 3}
    whole = second_order_clever(model, images, labels, seed=list(range(6)), **few)
    assert int(whole.status[2]) == Status.MISCLASSIFIED
    assert whole.score.isnan().tolist() == [row == 2 for row in range(6)]
    alone = [second_order_clever(model, images[[row]], labels[[row]], seed=row, **few).score for row in range(6)]
    torch.testing.assert_close(torch.cat(alone), whole.score, rtol=1e-4, atol=0, equal_nan=True)
    # Two calls on the image, 16 samples and the image again; a gradient and three products at each.
    assert whole.forward.tolist() == [2 + 17 if row != 2 else 2 for row in range(6)]
    assert whole.backward.tolist() == [17 * (1 + 3 * 2) if row != 2 else 0 for row in range(6)]
    capped = second_order_clever(model, images[:2], labels[:2], **few | {"radius": 1e-3})
    assert capped.saturated.all()
    assert (capped.status == Status.SATURATED).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"radius": 0}, "got radius=0"),
        ({"iterations": 0}, "got iterations=0"),
        ({"blocks": 2}, "got blocks=2"),
        ({"sampling": "cube"}, "got sampling='cube'"),
        ({"targets": "worst"}, "got targets='worst'"),
    ],
)
def test_bad_arguments_are_refused(digits, wrong, message):
    model = smooth_network(torch.tanh)
    labels = model(digits.images[:1]).argmax(dim=1)
    with pytest.raises(ValueError, match=message):
        second_order_clever(model, digits.images[:1], labels, **{"radius": 1.0, **FEW} | wrong)
