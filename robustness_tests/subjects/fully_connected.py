"""Fully connected ReLU networks, small enough for exact distances."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class FullyConnected(nn.Module):
    """A fully connected ReLU network from images in [0, 1] to logits (N, `classes`), normalisation inside.

    Args:
        inputs: number of values in an image.
        hidden: sizes of the hidden layers.
        classes: number of logits.
        mean: mean for the normalisation.
        std: standard deviation for the normalisation.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        layers: list[nn.Module] = [nn.Flatten()]
        for size_in, size_out in pairwise([inputs, *hidden]):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear([inputs, *hidden][-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, C, H, W), to logits (N, K)."""
        logits: torch.Tensor = self.layers((images - self.mean) / self.std)
        return logits
