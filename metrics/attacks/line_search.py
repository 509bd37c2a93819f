"""The way back: from the best adversarial point along the straight line to the clean image, as far as it goes."""

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.norms import per_row


def line_search(search: Search, rows: Tensor, *, steps: int) -> Tensor:
    """Find where the margin changes sign between the clean image and its best adversarial point.

    Regula falsi, and a bisection after each step that has not halved the bracket: a few steps suffice on a margin that
    is nearly straight, and on any other the bracket is halved at every second step at least. One forward pass per image
    and step, and one more to begin with.

    Args:
        search: the images and their best points, which the search replaces by nearer ones.
        rows: indices of images that have an adversarial point, shape (R,).
        steps: number of steps.

    Returns:
        What is left of the bracket, shape (R,): the length of the line between the last point that is adversarial and
        the last one that is not.
    """
    clean, far = search.images[rows], search.adversarial[rows].clone()
    whole = search.distance[rows]
    inner, outer = torch.zeros_like(whole), torch.ones_like(whole)
    if not len(rows):
        return whole
    margin_inner = search.margin(search.logits[rows], rows)
    margin_outer = search.query(far, rows, Attack.LINE_SEARCH)
    bisect = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(steps):
        # The clean image may be within rounding of the boundary: then there is nothing between.
        share = margin_inner / (margin_inner - margin_outer).clamp_min(torch.finfo(far.dtype).tiny)
        share = torch.where(bisect, 0.5, share.clamp(0.01, 0.99))
        middle = inner + (outer - inner) * share
        margins = search.query(torch.lerp(clean, far, per_row(middle, far)).clamp(0, 1), rows, Attack.LINE_SEARCH)
        fooled = margins <= 0
        bisect = ~bisect & (torch.where(fooled, share, 1 - share) > 0.5)
        margin_inner = torch.where(fooled, margin_inner, margins)
        margin_outer = torch.where(fooled, margins, margin_outer)
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
    return (outer - inner) * whole
