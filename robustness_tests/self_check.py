"""`pytest --self-check`: the metrics on this machine and device, on cases whose answers are known.

The first thing to run where numbers look odd. A failure means that torch, a driver or the machine computes wrong, or
that this suite has a defect: never that a model is bad.
"""

import pytest
import torch
from torch import nn

from metrics import Status, adversarial_distance, certified_distance, clever, exact_distance
from robustness_tests.harness.subject import subject
from robustness_tests.subjects.reproducible import reproducible, resolve_device

DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
"""Orders of the norms in which gradients are measured, by the norm of perturbations."""

LOGITS = [9.15946, 5.26756, 9.57784, 9.85741]
STEEPNESS = [7.33269, 14.07835, 5.60793, 8.62534]
DISTANCES = {"linf": [0.08861, 0.01745, 0.09736, 0.09119], "l2": [0.45555, 0.07406, 0.47817, 0.47218]}
"""What the bundled network `standard` had for the first images of `digits`: its largest logits, the L2 norms of their
gradients, and the distances at thorough effort (torch 2.14, CPU). With other seeds the distances differ by up to 2 %.
"""


@pytest.fixture(scope="module")
def device(run):
    """Where the metrics are computed: `--device`."""
    return resolve_device(run.device)


@pytest.fixture(autouse=True)
def _as_in_the_gate():
    with reproducible():
        yield


@pytest.fixture(scope="module")
def linear(device):
    """A linear network, images in the middle of the box, and their labels."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).eval().requires_grad_(False)
    network[1].weight.copy_(torch.randn(4, 48, generator=generator))
    network[1].bias.copy_(-network[1].weight.sum(dim=1) / 2)  # equal logits for a grey image: the box is far away
    images = 0.4 + 0.2 * torch.rand(8, 3, 4, 4, generator=generator)
    return network.to(device), images.to(device), network.cpu()(images).argmax(dim=1).to(device)


@pytest.fixture(scope="module")
def small(device):
    """A ReLU network of a few units, images, and their labels."""
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 3)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    images = torch.rand(6, 1, 3, 3, generator=generator)
    return network.to(device), images.to(device), network.cpu()(images).argmax(dim=1).to(device)


def distances_of(network, images, labels, norm):
    """The distances of a linear network: margin / dual norm of its gradient, for the nearest class."""
    images, labels, rows = images.double().cpu(), labels.cpu(), torch.arange(len(labels))
    weights, bias = network[1].weight.double().cpu(), network[1].bias.double().cpu()
    logits = images.flatten(1) @ weights.T + bias
    margins = logits[rows, labels][:, None] - logits
    steepness = torch.linalg.vector_norm(weights[labels][:, None] - weights, ord=DUALS[norm], dim=2)
    return torch.where(margins > 0, margins / steepness, torch.inf).amin(dim=1)


def assert_close(found, expected, tolerance, what):
    """Fail with both numbers where they differ by more than this fraction."""
    found, expected = found.double().cpu(), expected.double().cpu()
    apart = (found - expected).abs() / expected
    worst = int(apart.argmax())
    assert apart[worst] <= tolerance, (
        f"got {what} {found[worst]:.6f} of image {worst}, expected {expected[worst]:.6f} within {tolerance:.2%}"
    )


def test_arithmetic_is_in_full_precision(device):
    """Products of matrices have the error of float32: TF32 or bfloat16 would have a thousand times as much."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    error = ((left.to(device) @ right.to(device)).cpu() - exact).abs().max() / exact.abs().max()
    assert error < 1e-6, f"got products with an error of {error:.1e}, expected at most 1e-06"


@pytest.mark.parametrize("norm", DUALS)
def test_adversarial_distance_of_a_linear_network(linear, norm):
    """The distance is margin / dual norm of the weights."""
    found = adversarial_distance(*linear, norm=norm)
    exact = distances_of(*linear, norm)
    assert_close(found.distance, exact, 1e-3, f"a distance in {norm}")
    assert (found.distance.double().cpu() >= exact * (1 - 1e-5)).all(), "a distance is below the exact one"


@pytest.mark.parametrize("norm", DUALS)
def test_clever_of_a_linear_network(linear, norm):
    """The score is the distance, as all gradients are the same."""
    found = clever(*linear, norm=norm, radius=100.0, sampling="walks", blocks=6, block_size=2)
    assert_close(found.score, distances_of(*linear, norm), 1e-4, f"a CLEVER score in {norm}")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_certified_distance_of_a_linear_network(linear, norm):
    """The proved distance is the exact one, less its tolerance."""
    found, exact = certified_distance(*linear, norm=norm), distances_of(*linear, norm)
    assert_close(found.distance, exact, 0.03, f"a certified distance in {norm}")
    assert (found.distance.double().cpu() <= exact).all(), "a certified distance is above the exact one"


def test_bracket_of_a_small_network(small):
    """Certified <= exact <= adversarial distance, the exact one by a mixed-integer program."""
    exact = exact_distance(*small, norm="linf")
    assert (exact.status == Status.EXACT).all(), f"got no exact distance: {exact.reasons}"
    found = adversarial_distance(*small, norm="linf", effort="thorough").distance
    certified = certified_distance(*small, norm="linf").distance
    assert_close(found, exact.distance, 0.02, "a distance in linf")
    assert (certified <= exact.distance * (1 + 1e-5)).all(), "a certified distance is above the exact one"
    assert (exact.distance <= found * (1 + 1e-5)).all(), "an adversarial distance is below the exact one"


def test_masked_gradients_are_noticed(small):
    """A network that rounds its images has no CLEVER score, rather than a large one."""
    network, images, _ = small
    rounding = nn.Sequential(Rounds(), network).eval()
    labels = rounding(images).argmax(dim=1)
    found = clever(rounding, images, labels, norm="linf", radius=0.5, blocks=6, block_size=2)
    assert (found.status == Status.UNAVAILABLE).all(), f"got scores {found.score.tolist()}, expected none"


class Rounds(nn.Module):
    """Rounds images to a few levels, and so hides the gradient."""

    def forward(self, images):
        """The rounded images."""
        return (images * 16).round() / 16


@pytest.fixture(scope="module")
def bundled(run, device):
    """The network `standard`, the first images of `digits`, and their labels."""
    found = subject(run.sources["standard"], run.dataset_source, 4, run.device, run.data_dir)
    return found.network, found.images.images[:4].to(device), found.images.labels[:4].to(device)


def test_logits_and_gradients_are_those_of_another_machine(bundled):
    """Forward and backward passes of a convolutional network."""
    network, images, _ = bundled
    images = images.clone().requires_grad_()
    largest = network(images).amax(dim=1)
    (gradients,) = torch.autograd.grad(largest.sum(), images)
    assert_close(largest.detach(), torch.tensor(LOGITS), 1e-4, "a logit")
    assert_close(gradients.flatten(1).norm(dim=1), torch.tensor(STEEPNESS), 1e-3, "the norm of a gradient")


@pytest.mark.parametrize("norm", DISTANCES)
def test_distances_are_those_of_another_machine(bundled, norm):
    """The whole attack, twice: other last bits may lead it to another local minimum, but not far away."""
    found = adversarial_distance(*bundled, norm=norm, effort="thorough").distance
    assert_close(found, torch.tensor(DISTANCES[norm]), 0.05, f"a distance in {norm}")
    once, again = (adversarial_distance(*bundled, norm=norm, effort="quick").distance for _ in range(2))
    assert torch.equal(once, again), "the same call gives other numbers the second time"
