"""The state that all attacks on a batch share: best adversarial point of each image, and the passes spent."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from metrics.attacks.shortlist import Shortlist
from metrics.box import descending_within_box, nearest_beyond
from metrics.norms import Norm, per_row, vector_norm
from metrics.passes import Passes, margin, rounding_slack
from metrics.results import concatenate


class Attack(IntEnum):
    """The attack that found a point; a result's `.attack` tensor holds these numbers."""

    NONE = 0
    BOUNDARY_DESCENT = 1
    RESTART = 2
    RANDOM_NOISE = 3
    ITERATED_PGD = 4
    LINE_SEARCH = 5
    LINEARISED = 6


@dataclass(frozen=True)
class SearchPath:
    """Every query of the attacks, in order; all tensors have the shape (Q,).

    It leaves out the checks of the model, the gradients that choose the classes, and the verification at the end.

    Attributes:
        image: index of the image in the caller's batch.
        attack: the `Attack` that made the query.
        distance: norm of the perturbation.
        margin: logit of the label minus the largest other one (targeted: largest other one minus the target's), plus
            the rounding slack, see `Search.margin`. The point is adversarial if this is 0 or less.
    """

    image: Tensor
    attack: Tensor
    distance: Tensor
    margin: Tensor


class Search:
    """The best adversarial point of each image so far.

    Attributes:
        images: clean images, shape (N, C, H, W), in [0, 1].
        labels: their classes, shape (N,).
        targets: classes that the adversarial images must be put into, shape (N,); None if any wrong class will do.
        logits: of the clean images, shape (N, K).
        norm: the norm of the distance.
        adversarial: the adversarial image of smallest distance among all queries; the clean image where there is none.
        distance: its distance, shape (N,); infinite where there is none.
        attack: the `Attack` that found it, shape (N,).
    """

    def __init__(
        self,
        passes: Passes,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        norm: Norm,
        targets: Tensor | None = None,
        *,
        record_path: bool = False,
    ) -> None:
        self.passes = passes
        self.images = images
        self.labels = labels
        self.targets = targets
        self.logits = logits
        self.norm = norm
        self.adversarial = images.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.attack = torch.full((len(images),), Attack.NONE, dtype=torch.long, device=images.device)
        self._path: list[SearchPath] | None = [] if record_path else None

    def margin(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The margin that an attack on the images `rows` has to bring to 0 or below, shape (R,).

        It includes the rounding slack, so that a point that counts as adversarial stays adversarial in another batch.
        """
        classes = self.labels[rows] if self.targets is None else self.targets[rows]
        return self._plain_margin(logits, rows) + rounding_slack(logits.detach(), classes, self.passes.eps)

    def _plain_margin(self, logits: Tensor, rows: Tensor) -> Tensor:
        if self.targets is None:
            return margin(logits, self.labels[rows])
        return -margin(logits, self.targets[rows])

    def is_adversarial(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Whether the logits put the images `rows` into a wrong class, or into the target class, shape (R,)."""
        return self._plain_margin(logits, rows) < 0

    def query(self, points: Tensor, rows: Tensor, attack: Attack) -> Tensor:
        """The margins of `points`, perturbed versions of the images `rows`, shape (R,); 0 or less is adversarial.

        No image may be in `rows` twice.
        """
        return self._record(points, rows, self.passes.logits(points, rows), attack)

    def query_gradient(
        self,
        points: Tensor,
        rows: Tensor,
        attack: Attack,
        aims: Tensor | None = None,
        *,
        loss: Callable[[Tensor], Tensor] | None = None,
        cut: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The margins, and the gradients with respect to `points` of these or of another loss.

        Args:
            points: shape (R, C, H, W), in [0, 1].
            rows: indices of the images that they perturb, shape (R,).
            attack: the attack that makes the query.
            aims: classes, shape (R,): take the margins to these, which are never smaller than those to the nearest
                class.
            loss: maps logits to the values to lower, shape (R,); the margins by default.
            cut: set gradient values to 0 where a descent would leave the box.
        """

        def margin_to_aim(logits: Tensor) -> Tensor:
            return self.margin(logits, rows) if aims is None else margin(logits, self.labels[rows], aims)

        logits, gradients = self.passes.logits_and_gradient(points, rows, loss or margin_to_aim)
        margins = self._record(points, rows, logits, attack)
        if aims is not None:
            # Not smaller than `self.margin`, which includes the slack, so that 0 or less still means adversarial.
            margins = torch.maximum(margins, margin_to_aim(logits))
        gradients = _finite(gradients)
        return margins, descending_within_box(gradients, points) if cut else gradients

    def path(self) -> SearchPath | None:
        """All queries so far; None unless `record_path` was given."""
        if self._path is None:
            return None
        nothing, none = torch.empty_like(self.labels[:0]), torch.empty_like(self.distance[:0])
        return concatenate([SearchPath(nothing, nothing, none, none), *self._path])

    def _record(self, points: Tensor, rows: Tensor, logits: Tensor, attack: Attack) -> Tensor:
        margins = self.margin(logits, rows)
        distances = vector_norm(points - self.images[rows], self.norm)
        # `where` instead of a boolean index, whose size a GPU would have to tell the CPU.
        better = (margins <= 0) & (distances < self.distance[rows])
        self.distance[rows] = torch.where(better, distances, self.distance[rows])
        self.adversarial[rows] = torch.where(per_row(better, points), points, self.adversarial[rows])
        self.attack[rows] = torch.where(better, attack, self.attack[rows])
        if self._path is not None:
            self._path.append(SearchPath(rows, torch.full_like(rows, attack), distances, margins))
        return margins


@dataclass(frozen=True)
class Nearest:
    """The classes whose linearised boundaries are nearest to each of R images, the nearest first.

    Attributes:
        classes: shape (R, T).
        points: the nearest points in the box that are just beyond these boundaries, shape (T, R, C, H, W).
    """

    classes: Tensor
    points: Tensor


BEYOND = 1e-4
"""How far beyond the linearised boundary a point is put, as a share of the margin."""


def nearest_classes(search: Search, rows: Tensor, among: int, count: int) -> Nearest:
    """Find the classes to aim at, with one forward pass and one backward pass for each of `among` classes.

    The `among` other classes with the largest logits are compared. The runner-up need not be the nearest: on a linear
    model, a class with a smaller logit and a steeper margin is nearer in a quarter of cases.
    """
    images, labels, logits = search.images[rows], search.labels[rows], search.logits[rows]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    classes = others.topk(min(among, logits.shape[1] - 1), dim=1).indices
    slack = rounding_slack(logits, labels, search.passes.eps)
    margins = logits.gather(1, labels[:, None]) - logits.gather(1, classes) + slack[:, None]
    shortlist = Shortlist(min(count, classes.shape[1]), images)
    everyone = torch.arange(len(rows), device=rows.device)
    for column, (_, gradient) in enumerate(search.passes.target_gradients(images, labels, classes, rows)):
        gradient = _finite(gradient)  # noqa: PLW2901  # the same gradient, without NaN
        amount = (1 + BEYOND) * margins[:, column].clamp_min(0)
        perturbation = nearest_beyond(images, gradient, amount, search.norm)
        gain = -(gradient * perturbation).flatten(1).sum(dim=1)
        # A boundary that is flat or outside the box is the last choice.
        last = torch.finfo(images.dtype).max
        distance = torch.where(gain < 0.99 * amount, last, vector_norm(perturbation, search.norm))
        shortlist.offer(everyone, distance, (images + perturbation).clamp(0, 1), classes[:, column])
    return Nearest(shortlist.classes.T, shortlist.points)


def _finite(gradients: Tensor) -> Tensor:
    # One NaN would stay in the point for good.
    return torch.where(gradients.isfinite(), gradients, 0)
