"""The step to the nearest point of the linearised boundary, by which the FAB attack goes too."""

from torch import Tensor

from metrics.attacks.search import BEYOND, Attack, Search
from metrics.box import nearest_beyond


def linearised(search: Search, rows: Tensor, *, steps: int) -> None:
    """From the best point, go to the nearest point to the clean image on the linearised boundary, within the box.

    The projection of FAB (Croce & Hein 2020, https://arxiv.org/abs/1907.02044, section 3.1), in full and not averaged:
    exact on a linear model, whatever the box cuts off, and wherever the best point lies on the right linear piece. One
    forward and one backward pass per image and step, and one forward pass at the end.

    Args:
        search: the images and their best points, which the search replaces by nearer ones.
        rows: indices of images that have an adversarial point, shape (R,).
        steps: number of steps, each from the best point so far.
    """
    clean = search.images[rows]
    for _ in range(steps if len(rows) else 0):
        points = search.adversarial[rows]
        # Uncut: what the best point has already used up of the box counts from the clean image on.
        margins, gradients = search.query_gradient(points, rows, Attack.LINEARISED, cut=False)
        at_clean = margins + (gradients * (clean - points)).flatten(1).sum(dim=1)
        steps_down = nearest_beyond(clean, gradients, (1 + BEYOND) * at_clean.clamp_min(0), search.norm)
        search.query((clean + steps_down).clamp(0, 1), rows, Attack.LINEARISED)
