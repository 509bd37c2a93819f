"""The attack of the study that this project starts from: small gradient steps until the label flips."""

import torch
from torch import Tensor
from torch.nn import functional

from metrics.attacks.search import Attack, Search, usable
from metrics.norms import Norm, length, per_row, steepest

STEP_SIZE: dict[str, float] = {"linf": 0.0004, "l2": 0.005, "l1": 0.2}
"""Of the study (L-infinity) and of its follow-up, in units of the image range [0, 1]."""


def iterated_pgd(search: Search, rows: Tensor, *, steps: int, bisections: int) -> Tensor:
    """Raise the cross-entropy by one small step after another until the label flips, then bisect the last step.

    The number of steps is the distance, nearly: where it ends far from the minimum is measured in
    `benchmarks/README.md`. As in the study, the path is not projected onto any ball; other than there, it is clamped
    to [0, 1], batched, and bisected between the last point that is classified correctly and the first that is not.
    L1 steps are dense, along the gradient over its L1 norm, as in the version of ART that the follow-up used; DESIGN
    section 6, point 13 says why a better attack does not do that.

    One forward and one backward pass per image and step; an image whose label has flipped leaves the batch.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: the largest number of steps.
        bisections: of the last step, a forward pass each.

    Returns:
        What is left of the last step after the bisections, shape (R,).
    """
    points = search.images[rows]
    before = points.clone()
    flipped = torch.zeros_like(rows, dtype=torch.bool)
    active = torch.arange(len(rows), device=rows.device)
    for _ in range(steps):
        if not len(active):
            break
        labels = search.labels[rows[active]]
        targets = None if search.targets is None else search.targets[rows[active]]

        def loss(logits: Tensor, labels: Tensor = labels, targets: Tensor | None = targets) -> Tensor:
            if targets is None:
                return -functional.cross_entropy(logits, labels, reduction="none")
            return functional.cross_entropy(logits, targets, reduction="none")

        _, gradients = search.passes.logits_and_gradient(points[active], rows[active], loss)
        direction = _direction(usable(gradients, points[active]), search.norm)
        before[active] = points[active]
        points[active] = (points[active] - STEP_SIZE[search.norm] * direction).clamp(0, 1)
        flipped[active] = search.query(points[active], rows[active], Attack.ITERATED_PGD) <= 0
        active = active[~flipped[active]]
    inner, outer = before, points
    for _ in range(bisections if flipped.any() else 0):
        middle = 0.5 * (inner + outer)
        fooled = per_row(search.query(middle, rows, Attack.ITERATED_PGD) <= 0, middle)
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
    return length(outer - inner, search.norm)


def _direction(gradients: Tensor, norm: Norm) -> Tensor:
    if norm == "l1":
        sums = length(gradients, "l1").clamp_min(torch.finfo(gradients.dtype).tiny)
        return gradients / per_row(sums, gradients)
    return steepest(gradients, norm)
