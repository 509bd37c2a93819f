"""Boundary descent: steps along the gradient within a ball whose radius follows the decision boundary.

The ball comes from the fast minimum-norm attack (Pintor et al. 2021, https://arxiv.org/abs/2102.12827). Boundary
descent needs a tenth of its steps, for four reasons: steps relative to the radius, a radius from the linearised margin,
momentum, and gradients cut to the image box. `benchmarks/README.md` shows the effect of each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.attacks.search import Attack, Search
from metrics.norms import DUAL, Norm, per_row, project, steepest, vector_norm

MOMENTUM = 0.5
OVERSHOOT = 0.02
MAX_L1_STEP = 2.0
"""Cap on the radius that scales an L1 step. A value can change by 1 at most, so the box would cut off nearly all of a
step that is as long as a much larger radius."""


@dataclass(frozen=True)
class Pace:
    """The first and the last value of the step length and of the radius change; those in between fall geometrically.

    Attributes:
        step: length of a step, relative to the radius.
        growth: the largest change of the radius, relative to the best distance.
    """

    step: tuple[float, float]
    growth: tuple[float, float]

    def at(self, share: float) -> tuple[float, float]:
        """Step and growth after a share of the steps, from 0 to 1."""
        step, growth = (first * (last / first) ** share for first, last in (self.step, self.growth))
        return step, growth


EXPLORE: dict[Norm, Pace] = {
    "linf": Pace(step=(2.0, 0.1), growth=(0.3, 0.05)),
    "l2": Pace(step=(2.0, 0.1), growth=(0.3, 0.05)),
    # Steps as long as in the other norms are better on shallow networks. On a ResNet-20 they are far worse, because its
    # gradient changes faster.
    "l1": Pace(step=(0.3, 0.06), growth=(0.3, 0.05)),
}
REFINE = Pace(step=(0.2, 0.01), growth=(0.1, 0.01))


@dataclass(frozen=True)
class Reached:
    """The nearest adversarial point that one descent found for each of its R images.

    Attributes:
        distance: shape (R,); infinite where it found none.
        points: shape (R, C, H, W); undefined where it found none.
    """

    distance: Tensor
    points: Tensor


def boundary_descent(
    search: Search,
    rows: Tensor,
    *,
    steps: int,
    pace: Pace,
    start: Tensor | None = None,
    within: Tensor | None = None,
    aims: Tensor | None = None,
    aimed_steps: int = 4,
    attack: Attack = Attack.BOUNDARY_DESCENT,
) -> Reached:
    """Descend the margin inside a ball around the clean image whose radius follows the boundary.

    The next radius is the one at which the linearised margin is 0. It changes by at most a share of the best distance.
    The cost is one forward and one backward pass per image and step, and one forward pass at the end. An image leaves
    the batch when its point is not adversarial and has a zero gradient.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        steps: number of steps, 1 or more.
        pace: how long the steps are.
        start: where to begin, shape (R, C, H, W); the clean images by default.
        within: distances that earlier attacks have reached, shape (R,); they limit the radius from the start.
        aims: classes, shape (R,): the first `aimed_steps` go to the boundaries of these, later steps to any boundary.
        aimed_steps: see `aims`.
        attack: the attack under which the search records the queries.

    Returns:
        The nearest adversarial points of this descent alone.
    """
    clean = search.images[rows]
    points = clean.clone() if start is None else start.clone()
    best = torch.full_like(search.distance[rows], torch.inf) if within is None else within.clone()
    reached = Reached(torch.full_like(best, torch.inf), points.clone())
    momentum = torch.zeros_like(points)
    furthest = vector_norm(torch.ones_like(points[:1]), search.norm)
    active = torch.arange(len(rows), device=rows.device)
    for step in range(steps if len(rows) else 0):
        aiming = aims[active] if aims is not None and step < aimed_steps else None
        here = points[active]
        margins, gradients = search.query_gradient(here, rows[active], attack, aiming)
        slopes = vector_norm(gradients, DUAL[search.norm])
        lengths = vector_norm(here - clean[active], search.norm)
        _keep_nearest(reached, best, active, margins, lengths, here)
        # Where there is no gradient, only a shrinking ball can move the point.
        moving = ((slopes > 0) | (margins <= 0)).nonzero().flatten()
        active, margins, gradients, slopes, lengths = (
            tensor[moving] for tensor in (active, margins, gradients, slopes, lengths)
        )
        if not len(active):
            return reached
        size, growth = pace.at(step / max(steps - 1, 1))
        radius = _radius(margins, slopes, lengths, best[active], growth).minimum(furthest)
        momentum[active] = MOMENTUM * momentum[active] + gradients / per_row(_positive(slopes), gradients)
        moved = points[active] - size * _step(momentum[active], search.norm, radius)
        points[active] = (clean[active] + _onto_ball(moved - clean[active], search.norm, radius)).clamp(0, 1)
    if not len(rows):
        return reached
    here = points[active]
    margins = search.query(here, rows[active], attack)
    _keep_nearest(reached, best, active, margins, vector_norm(here - clean[active], search.norm), here)
    return reached


def _keep_nearest(
    reached: Reached, best: Tensor, active: Tensor, margins: Tensor, lengths: Tensor, points: Tensor
) -> None:
    nearer = (margins <= 0) & (lengths < reached.distance[active])
    reached.distance[active] = torch.where(nearer, lengths, reached.distance[active])
    reached.points[active] = torch.where(per_row(nearer, points), points, reached.points[active])
    best[active] = torch.minimum(best[active], reached.distance[active])


def _radius(margins: Tensor, slopes: Tensor, lengths: Tensor, best: Tensor, growth: float) -> Tensor:
    change = margins / _positive(slopes)
    # Until an adversarial point is found, aim for the linearised boundary. Grow the radius by a fifth at least: where
    # the boundary curves away, the linearised estimate only creeps towards it.
    unknown = torch.maximum(lengths + (1 + OVERSHOOT) * change.clamp_min(0), 1.2 * lengths)
    limit = growth * torch.where(best.isinf(), 0, best)
    known = lengths + torch.minimum(torch.maximum(change, -limit), limit)
    known = torch.where(margins <= 0, torch.minimum(known, best - 0.1 * limit), torch.minimum(known, best + limit))
    return torch.where(best.isinf(), unknown, known)


def _step(directions: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    if norm == "l1":
        # The steepest step would change a single value. A dense one lets many values compete, and the projection makes
        # it sparse.
        sizes = radius.clamp_max(MAX_L1_STEP)
        return directions * per_row(sizes / _positive(vector_norm(directions, "linf")), directions)
    return steepest(directions, norm) * per_row(radius, directions)


def _onto_ball(perturbations: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    if norm == "l2":
        # Move inner points out to the surface, too. In the other norms most values reach it by themselves.
        return steepest(perturbations, "l2") * per_row(radius, perturbations)
    return project(perturbations, norm, radius)


def _positive(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(values.dtype).tiny)
