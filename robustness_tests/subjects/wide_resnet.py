"""WideResNet (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to their input (the paper's basic block)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        if stride != 1 or channels_in != channels_out:
            # The name is the one that published checkpoints use.
            self.convShortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        else:
            self.register_module("convShortcut", None)

    def forward(self, features: Tensor) -> Tensor:
        """Features in, features out; the first block of a stage may halve the resolution."""
        activated = functional.relu(self.bn1(features))
        residual = self.conv2(functional.relu(self.bn2(self.conv1(activated))))
        # Where the shape changes, the shortcut starts after the activation; elsewhere it is the identity.
        shortcut = features if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + residual


class Stage(nn.Module):
    """A run of blocks with one number of channels; the first one may halve the resolution."""

    def __init__(self, blocks: int, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        first = PreActivationBlock(channels_in, channels_out, stride)
        rest = [PreActivationBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *rest)

    def forward(self, features: Tensor) -> Tensor:
        """Run all blocks."""
        return self.layer(features)


class WideResNet(nn.Module):
    """WideResNet-`depth`-`width` from images in [0, 1], shape (N, `channels`, H, W), to logits (N, `classes`).

    The parameters have the names and shapes of the published CIFAR-10 checkpoints, so those load strictly. The
    normalisation `(images - mean) / std` is part of the network, so that attacks and norms work on images in [0, 1].

    Args:
        depth: number of convolutions on the main path plus the linear layer, 6 n + 4 for n blocks a stage.
        width: factor on the channels 16, 32 and 64 of the three stages.
        classes: number of logits.
        channels: colour channels of the images.
        mean: one value for each channel, in units of the images.
        std: one value for each channel, in units of the images.

    Raises:
        ValueError: if `depth` is not 6 n + 4 with n >= 1, or `mean` and `std` do not have one value per channel.

    Example:
        >>> network = WideResNet(depth=10, width=1, classes=10, channels=1, mean=[0.5], std=[0.25])
        >>> network(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
        >>> sum(parameter.numel() for parameter in network.parameters())
        77562
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        classes: int,
        channels: int = 3,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"got depth={depth}, expected 6 n + 4 with n >= 1 (10, 16, 22, 28, ...)")
        if not len(mean) == len(std) == channels:
            raise ValueError(f"got {len(mean)} means and {len(std)} stds, expected {channels}, one for each channel")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(blocks, 16, 16 * width, stride=1)
        self.block2 = Stage(blocks, 16 * width, 32 * width, stride=2)
        self.block3 = Stage(blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        # Constants of the architecture, not weights: checkpoints do not hold them.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, C, H, W), to logits (N, K)."""
        features = self.conv1((images - self.mean) / self.std)
        features = self.block3(self.block2(self.block1(features)))
        pooled = functional.relu(self.bn1(features)).mean(dim=(2, 3))
        return self.fc(pooled)
