"""The attack of the study that this project starts from: small gradient steps until the label flips."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from metrics.attacks.search import Attack, Search
from metrics.norms import Norm, per_row, steepest, vector_norm

STEP_SIZE: dict[str, float] = {"linf": 0.0004, "l2": 0.005, "l1": 0.2}
"""Step sizes of the study (L-infinity) and of its follow-up (L2 and L1), in units of the image range [0, 1]."""


def iterated_pgd(search: Search, rows: Tensor, *, steps: int, bisections: int) -> Tensor:
    """Raise the cross-entropy in small steps until the label flips, then bisect the last step.

    The distance is nearly the number of steps times the step size. `benchmarks/README.md` shows how far it is above the
    minimum. As in the study, the path is not projected onto any ball. Unlike in the study, points are clamped to
    [0, 1], images are batched, and the last step is bisected between the last point that is classified correctly and
    the first that is not. L1 steps follow the gradient divided by its L1 norm, as in the version of ART that the
    follow-up used. Such steps are dense: they move every value a little, while the nearest points in L1 differ in few
    values.

    The cost is one forward and one backward pass per image and step, and one of each at the end. An image leaves the
    batch when its label has flipped.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: the largest number of steps.
        bisections: number of bisections of the last step, one forward pass each.

    Returns:
        The length of the last step that is left after the bisections, shape (R,); 0 where the label did not flip.
    """
    points = search.images[rows]
    before = points.clone()
    flipped = torch.zeros_like(rows, dtype=torch.bool)
    active = torch.arange(len(rows), device=rows.device)
    for _ in range(steps + 1 if len(rows) else 0):
        here = points[active]
        loss = _loss(search, rows[active])
        margins, gradients = search.query_gradient(here, rows[active], Attack.ITERATED_PGD, loss=loss)
        flipped[active] = margins <= 0
        going_on = margins > 0
        active, here, gradients = active[going_on], here[going_on], gradients[going_on]
        if not len(active):
            break
        before[active] = here
        points[active] = (here - STEP_SIZE[search.norm] * _direction(gradients, search.norm)).clamp(0, 1)
    inner, outer, of = before[flipped], points[flipped], rows[flipped]
    for _ in range(bisections if len(of) else 0):
        middle = 0.5 * (inner + outer)
        fooled = per_row(search.query(middle, of, Attack.ITERATED_PGD) <= 0, middle)
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
    left = torch.zeros_like(search.distance[rows])
    left[flipped] = vector_norm(outer - inner, search.norm)
    return left


def _loss(search: Search, rows: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss that the steps lower: minus the cross-entropy of the label, or the cross-entropy of the target."""
    if search.targets is None:
        return lambda logits: -functional.cross_entropy(logits, search.labels[rows], reduction="none")
    targets = search.targets[rows]
    return lambda logits: functional.cross_entropy(logits, targets, reduction="none")


def _direction(gradients: Tensor, norm: Norm) -> Tensor:
    if norm == "l1":
        sums = vector_norm(gradients, "l1").clamp_min(torch.finfo(gradients.dtype).tiny)
        return gradients / per_row(sums, gradients)
    return steepest(gradients, norm)
