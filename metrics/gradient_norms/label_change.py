"""A label change near each image: how far the samples of CLEVER have to reach."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.box import nearest_beyond
from metrics.gradient_norms.walks import stepped
from metrics.norms import DUAL, Norm, per_row, vector_norm
from metrics.passes import Passes, margin

LENGTH = 0.2
"""Largest length of a step, as a share of the first way to the linearised boundary. In L-infinity and L2, the median
distance of the label change is then 1.04 to 1.13 times the adversarial distance; with whole steps, 1.07 to 1.37."""

OVERSHOOT = 1.02
"""Factor on the decrease of the margin that a step aims at, so that it ends beyond the boundary."""

STEPS = 40
"""Most steps. Six are usual in L-infinity and L2; in L1, where a boundary may be much further than linearised, more."""

DESCENTS = 3
"""Descents from each image: towards the targets that are nearest by the gradients at the image."""

ROUNDS, STEPS_OF_ROUND, TIGHTER = 6, 6, 0.93
"""Rounds that look for a nearer label change, steps in each, and the factor on the distance."""

BISECTIONS = 4
"""Forward passes for a nearer label change on the segment from the image."""


def nearest_label_change(
    passes: Passes,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    margins: Tensor,
    norms: Tensor,
    norm: Norm,
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """Find a label change near each image by descents, with the gradients on the way.

    A descent follows the gradient of the margin towards one target, as DeepFool does (Moosavi-Dezfooli et al. 2016),
    with short steps. No random number is used.

    Args:
        passes: the model.
        images: shape (R, C, H, W), classified correctly.
        labels: shape (R,).
        targets: the classes that count as a change, shape (R, T).
        margins: of the images, shape (R, T).
        norms: dual norms of the gradients of these margins, shape (R, T).
        norm: norm of the distance.
        rows: the image of `passes` that each row belongs to, shape (R,).

    Returns:
        The distance of the nearest label change that was found, shape (R,); inf if none was. The nearest adversarial
        example is not further away. And the largest dual norm of the gradient of each margin that was found, shape
        (R, T): on its descent while the label is kept, and half-way to the label change. By the midpoint rule, the
        latter is about as steep as the margin falls on this way. 0 where none was taken.
    """
    norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    model = _Margins(passes, images, labels, targets, norms, rows)
    away = torch.where(norms.isfinite(), margins / norms, torch.inf)
    nearest = away.topk(min(DESCENTS, targets.shape[1]), dim=1, largest=False).indices
    steepest = torch.zeros_like(norms)
    distances, ways = torch.full_like(away[:, 0], torch.inf), torch.zeros_like(images)
    for columns in nearest.unbind(dim=1):
        found, way = _change_before(model, *_descended(model, columns, norm, steepest), norm, steepest)
        nearer = found < distances
        distances, ways = torch.where(nearer, found, distances), torch.where(per_row(nearer, ways), way, ways)
    return _tightened(model, distances, ways, norm, steepest), steepest


def keeps_label(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Whether the logit of the label is larger than those of all targets, bool, shape (P,)."""
    return logits.gather(1, labels[:, None]).squeeze(1) > logits.gather(1, targets).amax(dim=1)


@dataclass(frozen=True)
class _Margins:
    """The margins of R images towards T targets. `some` are indices of images."""

    passes: Passes
    images: Tensor
    labels: Tensor
    targets: Tensor
    norms: Tensor
    rows: Tensor

    def margins(self, logits: Tensor, some: Tensor) -> Tensor:
        """All margins at points with these logits, shape (P, T)."""
        return logits.gather(1, self.labels[some, None]) - logits.gather(1, self.targets[some])

    def at(self, points: Tensor, some: Tensor) -> Tensor:
        """All margins at points, shape (P, T)."""
        return self.margins(self.passes.logits(points, self.rows[some]), some)

    def gradients(self, points: Tensor, some: Tensor, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return all margins at points, shape (P, T), the gradients of those in `columns`, and `columns`.

        Without `columns`, they are those of the smallest margins, relative to the norms at the images. A gradient that
        is not finite becomes 0.
        """

        def chosen(logits: Tensor) -> Tensor:
            return self._nearest(logits, some) if columns is None else columns

        def of_column(logits: Tensor) -> Tensor:
            return margin(logits, self.labels[some], self.targets[some, chosen(logits)])

        logits, gradients = self.passes.logits_and_gradient(points, self.rows[some], of_column)
        return self.margins(logits, some), torch.where(gradients.isfinite(), gradients, 0), chosen(logits)

    def _nearest(self, logits: Tensor, some: Tensor) -> Tensor:
        return (self.margins(logits, some) / self.norms[some]).argmin(dim=1)


def _descended(model: _Margins, columns: Tensor, norm: Norm, steepest: Tensor) -> tuple[Tensor, Tensor]:
    """Descend for the targets in `columns`, shape (R,), and raise `steepest` on the way.

    Returns:
        Where the descents end, and the margins there, shape (R, T); inf where the label is kept.
    """
    ends, limits = model.images.clone(), None
    lost = torch.full_like(steepest, torch.inf)
    going = torch.arange(len(ends), device=ends.device)
    for _ in range(STEPS):
        if not len(going):
            break
        margins, gradients, _ = model.gradients(ends[going], going, columns[going])
        kept = (margins > 0).all(dim=1)
        lost[going[~kept]] = margins[~kept]
        going, margins, gradients = (one[kept] for one in (going, margins, gradients))
        column = columns[going]
        steepest[going, column] = steepest[going, column].maximum(vector_norm(gradients, DUAL[norm]))
        own = margins.gather(1, column[:, None]).squeeze(1)
        step = nearest_beyond(ends[going], gradients, OVERSHOOT * own, norm)
        lengths = vector_norm(step, norm)
        if limits is None:
            limits = torch.zeros_like(steepest[:, 0]).index_put((going,), LENGTH * lengths)
        shares = (limits[going] / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_max(1)
        ends[going] = (ends[going] + per_row(shares, step) * step).clamp(0, 1)
        going = going[lengths > 0]  # without a gradient, or at the edge of the box, a descent ends
    return ends, lost


def _change_before(
    model: _Margins, ends: Tensor, margins: Tensor, norm: Norm, steepest: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the distance of a label change on the segment to each end, shape (R,), and the way to it.

    The distance is inf if the `margins` at the end, shape (R, T), are: the label is kept there.

    `steepest` is raised by the gradient half-way to the change, for the class that the label changes to.
    """
    distances, ways = torch.full_like(steepest[:, 0], torch.inf), torch.zeros_like(ends)
    changed = (margins <= 0).any(dim=1).nonzero().flatten()
    if not len(changed):
        return distances, ways
    images, margins = model.images[changed], margins[changed]
    way = ends[changed] - images
    kept, lost = torch.zeros_like(distances[changed]), torch.ones_like(distances[changed])
    for _ in range(BISECTIONS):
        middle = (kept + lost) / 2
        there = model.at(images + per_row(middle, way) * way, changed)
        keeps = (there > 0).all(dim=1)
        kept, lost = torch.where(keeps, middle, kept), torch.where(keeps, lost, middle)
        margins = torch.where(keeps[:, None], margins, there)
    way = per_row(lost, way) * way
    distances[changed], ways[changed] = vector_norm(way, norm), way
    columns = margins.argmin(dim=1)
    _, gradients, _ = model.gradients(images + way / 2, changed, columns)
    steepest[changed, columns] = steepest[changed, columns].maximum(vector_norm(gradients, DUAL[norm]))
    return distances, ways


def _tightened(model: _Margins, distances: Tensor, ways: Tensor, norm: Norm, steepest: Tensor) -> Tensor:
    """Return the distances, shape (R,), of nearer label changes, and raise `steepest` on the way.

    In each round, a descent within a ball that is smaller by `TIGHTER` starts on the way to the label change that is
    known. An image whose label does not change there has its last round.
    """
    going = distances.isfinite().nonzero().flatten()
    for _ in range(ROUNDS):
        if not len(going):
            break
        ways[going] *= TIGHTER
        radii = TIGHTER * distances[going]
        changed = torch.zeros_like(going, dtype=torch.bool)
        left = torch.arange(len(going), device=going.device)
        for _ in range(STEPS_OF_ROUND):
            some = going[left]
            points = model.images[some] + ways[some]
            margins, gradients, column = model.gradients(points, some)
            kept = (margins > 0).all(dim=1)
            changed[left[~kept]] = True
            left, some, column, points, gradients = (one[kept] for one in (left, some, column, points, gradients))
            if not len(left):
                break
            steepest[some, column] = steepest[some, column].maximum(vector_norm(gradients, DUAL[norm]))
            ways[some] = stepped(points, gradients, model.images[some], radii[left], norm) - model.images[some]
        distances[going[changed]] = vector_norm(ways[going[changed]], norm)
        going = going[changed]
    return distances
