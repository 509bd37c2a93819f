"""DeepFool (Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599), targeted and with the image box."""

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.norms import DUAL, length, per_row, steepest


def deepfool(search: Search, rows: Tensor, *, steps: int, targets: Tensor, overshoot: float = 0.02) -> None:
    """Step to the boundary of the linearised margin to a target class until the label flips, to whatever class.

    One forward and one backward pass per image and step, where the paper's algorithm needs a backward pass for each
    class: the target is chosen once. An image that is fooled, or whose gradient is zero, leaves the batch. On a linear
    model the first step is exact, as long as it stays within the box.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: the largest number of steps.
        targets: a class for each of these images, shape (R,).
        overshoot: how much further than the linearised boundary each step goes, as a share of the step.
    """
    points = search.images[rows]
    for _ in range(steps):
        if not len(rows):
            return
        margins, to_target, gradients = search.margins_and_gradients(points, rows, Attack.DEEPFOOL, targets)
        slopes = length(gradients, DUAL[search.norm])
        going_on = (margins > 0) & (slopes > 0)
        rows, points, targets, gradients = rows[going_on], points[going_on], targets[going_on], gradients[going_on]
        step = (1 + overshoot) * to_target[going_on] / slopes[going_on]
        # A flat spot asks for an endless step; half the width of the box is as far as a step can be meant.
        furthest = 0.5 * length(torch.ones_like(points), search.norm)
        points = points - per_row(torch.minimum(step, furthest), points) * steepest(gradients, search.norm)
        points = points.clamp(0, 1)
    if len(rows):
        search.margins(points, rows, Attack.DEEPFOOL)
