"""The adversarial distance against the exact one, of ReLU networks small enough to look at every linear piece."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import nn

from metrics import Status, adversarial_distance

INPUTS, HIDDEN, CLASSES = 6, 6, 3


def network(seed):
    """A fully connected ReLU network with random weights, in double precision."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    with torch.no_grad():
        layers[1].weight.mul_(3)
        layers[3].weight.mul_(3)
        layers[1].bias.sub_(layers[1].weight.sum(dim=1) / 2)
    return layers.double().eval().requires_grad_(False)


def exact_distance(layers, image, label, norm):
    """The smallest over all 2^HIDDEN linear pieces and all classes of the distance to the boundary within the piece."""
    first, second = ([layer.weight.numpy(), layer.bias.numpy()] for layer in (layers[1], layers[3]))
    point, best = image.flatten().numpy(), np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=HIDDEN):
        on = np.array(pattern)
        weights, bias = second[0] @ (on[:, None] * first[0]), second[0] @ (on * first[1]) + second[1]
        # In this piece: (2 on - 1) (W x + b) >= 0. All constraints as A d <= c for the perturbation d.
        sign = 2 * on - 1
        piece = -sign[:, None] * first[0], sign * (first[0] @ point + first[1])
        box = np.vstack([np.eye(INPUTS), -np.eye(INPUTS)]), np.concatenate([1 - point, point])
        for target in set(range(CLASSES)) - {label}:
            row = weights[label] - weights[target]
            offset = -(row @ point + bias[label] - bias[target])
            a, c = np.vstack([piece[0], box[0], row]), np.concatenate([piece[1], box[1], [offset]])
            best = min(best, {"linf": least_linf, "l2": least_l2, "l1": least_l1}[norm](a, c))
    return best


def least_linf(a, c):
    """min max|d| with a d <= c: a linear program in (d, t)."""
    eye, one = np.eye(INPUTS), np.ones((INPUTS, 1))
    rows = np.block([[a, np.zeros((len(a), 1))], [eye, -one], [-eye, -one]])
    found = linprog([*[0] * INPUTS, 1], rows, np.concatenate([c, np.zeros(2 * INPUTS)]), bounds=(None, None))
    return found.fun if found.status == 0 else np.inf


def least_l1(a, c):
    """min sum|d| with a d <= c: a linear program in the positive and the negative part."""
    found = linprog(np.ones(2 * INPUTS), np.hstack([a, -a]), c, bounds=(0, None))
    return found.fun if found.status == 0 else np.inf


def least_l2(a, c):
    """min |d| with a d <= c: least distance programming (Lawson & Hanson 1974, chapter 23)."""
    system = np.vstack([-a.T, -c])
    solution, residual = nnls(system, [*[0] * INPUTS, 1], maxiter=1000)
    if residual < 1e-9:
        return np.inf
    vector = system @ solution - [*[0] * INPUTS, 1]
    return float(np.linalg.norm(-vector[:-1] / vector[-1]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_small_relu_networks(norm):
    """Nearly always at most 1.001 times the exact distance, and never below it.

    The weights are random and large: these networks are far more crooked than trained ones, and have local minima that
    no restart leaves.
    """
    ratios = {"default": [], "thorough": []}
    for seed in range(16):
        layers = network(seed)
        anywhere = torch.rand(2000, 1, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if layers(anywhere).argmax(dim=1).bincount(minlength=CLASSES).amax() > 0.95 * len(anywhere):
            continue  # a needle in a haystack: there may be nothing that leads to the other classes
        images = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        labels = layers(images).argmax(dim=1)
        both = zip(images, labels.tolist(), strict=True)
        exact = torch.tensor([exact_distance(layers, image, label, norm) for image, label in both], dtype=torch.float64)
        for effort, kept in ratios.items():
            found = adversarial_distance(layers, images, labels, norm=norm, effort=effort)
            assert (found.status == Status.ATTACKED).all()
            kept.extend((found.distance / exact).tolist())
    assert len(ratios["default"]) >= 24
    assert min(min(kept) for kept in ratios.values()) >= 1 - 1e-9, "an upper bound may not be below the distance"
    assert np.mean(np.array(ratios["default"]) <= 1.001) >= 0.85
    assert np.mean(np.array(ratios["thorough"]) <= 1.001) >= 0.95
