"""Exact distances of ReLU networks so small that every linear piece can be looked at."""

import itertools

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import nn

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
    """Min max|d| with a d <= c: a linear program in (d, t)."""
    eye, one = np.eye(INPUTS), np.ones((INPUTS, 1))
    rows = np.block([[a, np.zeros((len(a), 1))], [eye, -one], [-eye, -one]])
    found = linprog([*[0] * INPUTS, 1], rows, np.concatenate([c, np.zeros(2 * INPUTS)]), bounds=(None, None))
    return found.fun if found.status == 0 else np.inf


def least_l1(a, c):
    """Min sum|d| with a d <= c: a linear program in the positive and the negative part."""
    found = linprog(np.ones(2 * INPUTS), np.hstack([a, -a]), c, bounds=(0, None))
    return found.fun if found.status == 0 else np.inf


def least_l2(a, c):
    """Min |d| with a d <= c: least distance programming (Lawson & Hanson 1974, chapter 23)."""
    system = np.vstack([-a.T, -c])
    solution, residual = nnls(system, [*[0] * INPUTS, 1], maxiter=1000)
    if residual < 1e-9:
        return np.inf
    vector = system @ solution - [*[0] * INPUTS, 1]
    return float(np.linalg.norm(-vector[:-1] / vector[-1]))
