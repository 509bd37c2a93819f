"""Line search for the decision boundary, between the best adversarial point and the clean image."""

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.norms import per_row


def line_search(search: Search, rows: Tensor, *, steps: int) -> Tensor:
    """Find where the margin changes sign between the clean image and its best adversarial point.

    Regula falsi, with a bisection after each step that has not halved the bracket. A few steps suffice if the margin is
    nearly linear along the line. Otherwise the bracket is still halved at least every second step. The cost is one
    forward pass per image and step, and one more at the start.

    Args:
        search: the images and their best points; nearer points replace the best ones.
        rows: indices of images that have an adversarial point, shape (R,).
        steps: number of steps.

    Returns:
        The length of the final bracket, shape (R,): from the last point that is not adversarial to the last that is.
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
        # If the clean image is on the boundary up to rounding, there is no bracket, and the difference may be 0.
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
