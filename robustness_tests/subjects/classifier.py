"""A wrapper that turns a network into a classifier: normalisation inside, evaluation mode, frozen parameters."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network that first computes `(images - mean) / std`, so that it takes images in [0, 1] like those of the suite.

    The network is put into evaluation mode, and its parameters are frozen. Images are normalised in float32, and then
    converted to the type of the network's weights, bfloat16 for example. Avoid three mistakes:

    1. Normalising the dataset instead of inside the model. Perturbations and their norms would be in units of `std`,
       and images would not be in [0, 1].
    2. Normalising twice (in the dataset and in the model), or with means on the wrong scale: for images in 0 to 255,
       means are 255 times as large. Accuracy is then close to chance, and the suite refuses the model.
    3. Returning `softmax(logits)`. Margins of probabilities cannot be compared: return the input of the softmax.

    Args:
        network: from normalised images to logits (N, K).
        normalize: the mean and the standard deviation of each channel, in units of images in [0, 1].

    Raises:
        ValueError: if the numbers of means and stds differ, a value is not finite, or a std is not positive.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
        >>> classifier = Classifier(network, normalize=([0.5, 0.5, 0.5], [0.25, 0.25, 0.25]))
        >>> classifier(torch.zeros(2, 3, 2, 2)).shape, classifier.training
        (torch.Size([2, 10]), False)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, normalize: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        mean, std = (torch.as_tensor(values, dtype=torch.float32).flatten() for values in normalize)
        if len(mean) != len(std):
            raise ValueError(f"got {len(mean)} means and {len(std)} stds, expected one of each for each channel")
        if not (std > 0).all() or not mean.isfinite().all() or not std.isfinite().all():
            raise ValueError(f"got mean {mean.tolist()} and std {std.tolist()}, expected finite numbers, std above 0")
        self.network = network
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, -1, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], shape (N, C, H, W), to logits (N, K)."""
        normalised = (images - self.mean) / self.std
        # Normalise first: in bfloat16, small perturbations of an image would be rounded away.
        first = next((one.dtype for one in self.network.parameters() if one.is_floating_point()), normalised.dtype)
        return self.network(normalised.to(first))
