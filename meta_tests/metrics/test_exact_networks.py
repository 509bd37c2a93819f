"""The adversarial distance against the exact one, of ReLU networks small enough to look at every linear piece."""

import numpy as np
import pytest
import torch

from metrics import Status, adversarial_distance
from references.linear_pieces import CLASSES, exact_distance, network


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.slow
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
