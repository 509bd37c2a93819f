"""Gradients and perturbations that stay within the image box [0, 1]."""

import torch
from torch import Tensor

from metrics.norms import Norm, per_row, steepest

MOST_MOVED = 128
"""The most values that a step of steepest descent in L1 moves."""


def descending_within_box(gradients: Tensor, points: Tensor) -> Tensor:
    """Set the gradient to 0 for the values that a descent step would push out of [0, 1].

    Images have many values of exactly 0 and 1. If a step were normalised first and clipped to the box afterwards, the
    clipping would remove most of it.

    Example:
        >>> descending_within_box(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.5]]))
        tensor([[ 0., -2.,  2.]])
    """
    blocked = ((points <= 0) & (gradients > 0)) | ((points >= 1) & (gradients < 0))
    return torch.where(blocked, 0, gradients)


def steepest_descent(points: Tensor, gradients: Tensor, lengths: Tensor, norm: Norm) -> Tensor:
    """Return steps of norm `lengths`, shape (N,), against the gradients; 0 for a zero gradient.

    Values that a step would push out of [0, 1] stay. In L1, the values with the steepest slopes move to 0 or 1, one
    after the other. In the other norms, clip the sum of point and step to [0, 1].

    Example:
        >>> point, gradient = torch.tensor([[0.5, 0.1, 0.0]]), torch.tensor([[1.0, 2.0, 3.0]])
        >>> steepest_descent(point, gradient, torch.tensor([0.3]), "l1")
        tensor([[-0.2000, -0.1000, -0.0000]])
        >>> steepest_descent(point, gradient, torch.tensor([0.3]), "linf")
        tensor([[-0.3000, -0.3000, -0.0000]])
    """
    if norm != "l1":
        return -steepest(descending_within_box(gradients, points), norm) * per_row(lengths, points)
    room = torch.where(gradients > 0, points, 1 - points).flatten(1)
    # Most steps need few values. Sorting all of them takes longer than a pass of a small network.
    most = min(room.shape[1], MOST_MOVED)
    order = (gradients.abs().flatten(1) * (room > 0)).topk(most, dim=1).indices
    rooms = room.gather(1, order)
    before = rooms.cumsum(dim=1) - rooms
    moved = torch.minimum((lengths[:, None] - before).clamp_min(0), rooms)
    return -(gradients.sign().flatten(1) * torch.zeros_like(room).scatter(1, order, moved)).view_as(points)


def nearest_beyond(points: Tensor, gradients: Tensor, amount: Tensor, norm: Norm) -> Tensor:
    """Return the smallest perturbation within the box that lowers each linear function by its amount.

    The result solves min |d| subject to -gradient . d = amount and 0 <= point + d <= 1 exactly. In L-infinity and L2,
    Newton's method finds the multiplier. In L1, the values with the steepest slopes are moved one after the other.

    Args:
        points: shape (N, C, H, W), values in [0, 1].
        gradients: gradients of the functions, of the same shape.
        amount: decrease of each function, 0 or more, shape (N,).
        norm: "linf", "l2" or "l1".

    Returns:
        Perturbations of the same shape. Where no point of the box is far enough, they end at the edge of the box.

    Example:
        >>> point, gradient = torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, 2.0]])
        >>> nearest_beyond(point, gradient, torch.tensor([0.4]), "l1")
        tensor([[-0.2000, -0.1000]])
        >>> nearest_beyond(point, gradient, torch.tensor([0.6]), "linf")
        tensor([[-0.4000, -0.1000]])
    """
    slopes = gradients.abs().flatten(1)
    # Squares of slopes overflow above 1e19 in float32, and vanish below 1e-19.
    steepest = slopes.amax(dim=1).clamp_min(torch.finfo(slopes.dtype).tiny)
    slopes, amount = slopes / steepest[:, None], amount / steepest
    room = torch.where(gradients > 0, points, 1 - points).flatten(1)
    if norm == "l1":
        slopes, order = slopes.sort(dim=1, descending=True, stable=True)
        gains = slopes * room.gather(1, order)
        missing = amount[:, None] - (gains.cumsum(dim=1) - gains)
        share = (missing / gains.clamp_min(torch.finfo(gains.dtype).tiny)).clamp(0, 1)
        lengths = torch.zeros_like(room).scatter(1, order, share * room.gather(1, order))
    else:
        shape = torch.ones_like(slopes) if norm == "linf" else slopes
        lengths = torch.minimum(room, shape * _multiplier(slopes, shape, room, amount)[:, None])
    return -(gradients.sign().flatten(1) * lengths).view_as(points)


def _multiplier(slopes: Tensor, shape: Tensor, room: Tensor, amount: Tensor) -> Tensor:
    """Return the t at which the gain, the sum of slopes * min(room, shape * t), equals the amount.

    The gain is concave in t.
    """
    multiplier = torch.zeros_like(amount)
    while True:
        free = shape * multiplier[:, None] < room
        gain = (slopes * torch.where(free, shape * multiplier[:, None], room)).sum(dim=1)
        rate = (slopes * shape * free).sum(dim=1)
        further = multiplier + (amount - gain) / rate
        # Stop where nothing is left to gain, or only rounding.
        going_on = (rate > 0) & (further > multiplier * (1 + 4 * torch.finfo(gain.dtype).eps)) & further.isfinite()
        if not going_on.any():
            return multiplier
        multiplier = torch.where(going_on, further, multiplier)
