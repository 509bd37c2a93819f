"""The step to the nearest point of the linearised boundary, as in the FAB attack."""

from torch import Tensor

from metrics.attacks.search import BEYOND, Attack, Search
from metrics.box import nearest_beyond


def linearised(search: Search, rows: Tensor, *, steps: int) -> None:
    """Linearise the margin at the best point, and go to the point of the box nearest to the clean image where it is 0.

    This is the projection of FAB (Croce & Hein 2020, https://arxiv.org/abs/1907.02044, section 3.1), applied in full
    instead of averaged. It is exact on a linear model, even where the box cuts the step off. On a piecewise linear
    model it is exact if the best point lies on the right piece. The cost is two forward passes and one backward pass
    per image and step.

    Args:
        search: the images and their best points; nearer points replace the best ones.
        rows: indices of images that have an adversarial point, shape (R,).
        steps: number of steps, each from the best point so far.
    """
    clean = search.images[rows]
    for _ in range(steps if len(rows) else 0):
        points = search.adversarial[rows]
        # Do not cut the gradient to the box: the new step starts at the clean image, where there may be more room.
        margins, gradients = search.query_gradient(points, rows, Attack.LINEARISED, cut=False)
        at_clean = margins + (gradients * (clean - points)).flatten(1).sum(dim=1)
        steps_down = nearest_beyond(clean, gradients, (1 + BEYOND) * at_clean.clamp_min(0), search.norm)
        search.query((clean + steps_down).clamp(0, 1), rows, Attack.LINEARISED)
