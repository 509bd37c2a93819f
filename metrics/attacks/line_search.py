"""The way back: from the best adversarial point along the straight line to the clean image, as far as it goes."""

import torch
from torch import Tensor

from metrics.attacks.search import Search
from metrics.norms import per_row


def line_search(search: Search, rows: Tensor, *, steps: int) -> None:
    """Find where the margin changes sign between the clean image and its best adversarial point.

    Illinois variant of regula falsi (Dowell & Jarratt 1971): the bracket always holds the boundary, and on a margin
    that is nearly straight a few steps are as good as twenty of bisection. One forward pass per image and step, and one
    more to begin with.

    Args:
        search: the images and their best points, which the search replaces by nearer ones.
        rows: indices of images that have an adversarial point, shape (R,).
        steps: number of steps.
    """
    if not len(rows):
        return
    clean, far = search.images[rows], search.adversarial[rows].clone()
    inner, outer = (torch.full_like(search.distance[rows], value) for value in (0, 1))
    margin_inner = search.margins(clean, rows, None)
    margin_outer = search.margins(far, rows, None)
    was_fooled = torch.full_like(rows, -1)  # neither, before the first step
    for _ in range(steps):
        # The clean image may be within rounding of the boundary: then there is nothing between.
        share = margin_inner / (margin_inner - margin_outer).clamp_min(torch.finfo(far.dtype).tiny)
        middle = inner + (outer - inner) * share.clamp(0.01, 0.99)
        margins = search.margins(torch.lerp(clean, far, per_row(middle, far)).clamp(0, 1), rows, None)
        fooled = margins <= 0
        # An end that stays for a second time counts half: or it might stay for ever.
        again = was_fooled == fooled
        margin_inner = torch.where(fooled, torch.where(again, margin_inner / 2, margin_inner), margins)
        margin_outer = torch.where(fooled, margins, torch.where(again, margin_outer / 2, margin_outer))
        was_fooled = fooled.long()
        inner, outer = torch.where(fooled, inner, middle), torch.where(fooled, middle, outer)
