"""The image box [0, 1]: which values can still follow a gradient."""

import torch
from torch import Tensor


def descending_within_box(gradients: Tensor, points: Tensor) -> Tensor:
    """The gradients without the values that a step against them would push out of [0, 1].

    Images have many values of exactly 0 and 1. A step that is normalised before those are cut off is mostly cut off.

    Example:
        >>> descending_within_box(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.5]]))
        tensor([[ 0., -2.,  2.]])
    """
    blocked = ((points <= 0) & (gradients > 0)) | ((points >= 1) & (gradients < 0))
    return torch.where(blocked, 0, gradients)
