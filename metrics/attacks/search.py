"""The state that all attacks on a batch share: best adversarial point of each image, and the passes spent."""

from enum import IntEnum

import torch
from torch import Tensor

from metrics.box import descending_within_box
from metrics.norms import DUAL, Norm, length
from metrics.passes import Passes, margin, rounding_slack


class Attack(IntEnum):
    """The attack that found a point; a result's `.attack` tensor holds these numbers."""

    NONE = 0
    DEEPFOOL = 1
    FAST_MINIMUM_NORM = 2
    RANDOM_NOISE = 3


class Search:
    """The best verified point of each image so far.

    Attributes:
        images: clean images, shape (N, C, H, W), in [0, 1].
        labels: their classes, shape (N,).
        logits: of the clean images, shape (N, K).
        norm: the norm of the distance.
        adversarial: the adversarial image of smallest distance among all queries; the clean image where there is none.
        distance: its distance, shape (N,); infinite where there is none.
        attack: the `Attack` that found it, shape (N,).
    """

    def __init__(self, passes: Passes, images: Tensor, labels: Tensor, logits: Tensor, norm: Norm) -> None:
        self.passes = passes
        self.images = images
        self.labels = labels
        self.logits = logits
        self.slack = rounding_slack(logits, labels)
        self.norm = norm
        self.adversarial = images.clone()
        self.distance = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        self.attack = torch.full((len(images),), Attack.NONE, dtype=torch.long, device=images.device)

    def margins(self, points: Tensor, rows: Tensor, attack: Attack | None) -> Tensor:
        """The margins of `points`, attempts at the images `rows`, shape (R,); adversarial where they are <= 0.

        They are shifted by the rounding slack, so that a point that counts as adversarial stays so in another batch.
        """
        return self._record(points, rows, self.passes.logits(points, rows), attack)

    def margins_and_gradients(
        self, points: Tensor, rows: Tensor, attack: Attack, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The margins as above; those to a target, if there is one, else the same; and the gradients of the latter.

        The gradients are with respect to `points`, as far as the box lets one descend them.
        """
        logits, gradients = self.passes.margin_gradient(points, self.labels[rows], rows, targets)
        margins = self._record(points, rows, logits, attack)
        to_target = margins if targets is None else margin(logits, self.labels[rows], targets) + self.slack[rows]
        # One NaN would stay in the point for good.
        gradients = torch.where(gradients.isfinite(), gradients, 0)
        return margins, to_target, descending_within_box(gradients, points)

    def nearest_targets(self, rows: Tensor, classes: int, count: int) -> Tensor:
        """The classes whose linearised boundary is nearest, the nearest first, shape (R, count).

        Among the `classes` with the largest logits, by one forward pass and a backward pass for each. A class with a
        smaller logit is the nearest one if its margin is steep: on a linear model in every fourth case.
        """
        points, labels, logits = self.images[rows], self.labels[rows], self.logits[rows]
        others = logits.scatter(1, labels[:, None], -torch.inf)
        targets = others.topk(min(classes, logits.shape[1] - 1), dim=1).indices
        linearised = torch.empty_like(targets, dtype=points.dtype)
        gradients = self.passes.target_gradients(points, labels, targets, rows)
        for column, gradient in enumerate(gradients):
            gradient = torch.where(gradient.isfinite(), gradient, 0)  # noqa: PLW2901  # the same one, mended
            slopes = length(descending_within_box(gradient, points), DUAL[self.norm])
            # A flat margin divides to infinity: the last choice.
            linearised[:, column] = margin(logits, labels, targets[:, column]) / slopes
        order = linearised.argsort(dim=1, stable=True)[:, :count]
        return targets.gather(1, order)

    def _record(self, points: Tensor, rows: Tensor, logits: Tensor, attack: Attack | None) -> Tensor:
        margins = margin(logits, self.labels[rows]) + self.slack[rows]
        distances = length(points - self.images[rows], self.norm)
        better = (margins <= 0) & (distances < self.distance[rows])
        found = rows[better]
        self.distance[found] = distances[better]
        self.adversarial[found] = points[better]
        if attack is not None:
            self.attack[found] = attack
        return margins
