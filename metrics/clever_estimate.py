"""What is known of the CLEVER scores in one norm while sampling goes on: targets in the running, fits, flags."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.extreme_value import EndPoint, end_point
from metrics.gradient_norms import GradientNorms
from metrics.status import Status

AT_IMAGE = 1.6
"""The gradient at the image itself says less than a block of samples: so many times more slack in dropping targets."""

NUMBERS = ("score", "lower", "upper", "raw", "margin", "lipschitz", "shape", "p_value")
FLAGS = (
    "saturated",
    "degenerate_fit",
    "no_finite_endpoint",
    "zero_gradient",
    "broken_gradient",
    "masked_gradient",
)


class Estimate:
    """The scores of N images in one of the norms that are sampled, as far as blocks have been drawn.

    Args:
        gradients: what is sampled, for T targets of each image.
        index: of the norm.
        correct: the images that are classified correctly, bool, shape (N,); the others have no score.
        radius: the most that a score can be, shape (N,).
        pruning: a target stays while its score in the first block is at most this many times the smallest; the square
            root of that after the first look, its square root after the second.
    """

    def __init__(
        self, gradients: GradientNorms, index: int, correct: Tensor, radius: Tensor, pruning: float
    ) -> None:
        self.gradients = gradients
        self.maxima = gradients.maxima[index]
        self.slopes = gradients.slopes[index]
        self.margins = gradients.margins
        self.radius = radius
        self.pruning = pruning
        self.active = correct.clone()
        self.kept = correct[:, None].expand_as(self.margins).clone()
        count, like = len(correct), self.margins
        self.numbers = {name: like.new_full((count,), torch.nan) for name in NUMBERS}
        self.flags = {name: torch.zeros_like(correct) for name in FLAGS}
        self.target = torch.full_like(gradients.targets[:, 0], -1)
        self.blocks = torch.zeros_like(self.target)
        self.status = torch.full_like(self.target, Status.MISCLASSIFIED)

    def wanted(self) -> Tensor:
        """The targets that more samples are needed of, bool, shape (N, T)."""
        return self.kept & self.active[:, None]

    def prune_by_image(self, rows: Tensor, largest: Tensor) -> None:
        """Drop targets by the dual norms at the images `rows`, shape (R, T)."""
        self._prune(rows, self.margins[rows] / largest, self.pruning * AT_IMAGE)

    def prune_by_pilot(self) -> None:
        """Drop targets by the first block, and images that it shows to have no gradients."""
        self._give_up_without_gradients(1)
        rows = self.active.nonzero().flatten()
        if len(rows):
            raw = self.margins[rows] / self.maxima[rows, :, 0]
            self._prune(rows, torch.where(self.kept[rows], raw, torch.inf), self.pruning)

    def look(self, blocks: int, tolerance: float) -> None:
        """Fit `blocks` maxima of each target that is left, and end images whose interval is narrow enough."""
        self._give_up_without_gradients(blocks)
        rows = self.active.nonzero().flatten()
        if not len(rows):
            return
        kept, margins = self.kept[rows], self.margins[rows]
        maxima = self.maxima[rows, :, :blocks]
        fits = end_point(maxima[kept])
        scores = torch.full_like(margins, torch.inf)
        scores[kept] = margins[kept] / fits.estimate
        winner = _winner(scores, kept, fits)
        self._write(rows, winner, margins, maxima, kept, blocks)
        self._give_up_masked(rows, kept, fits, blocks)
        # Every look knows more than the one before, and needs less slack.
        self.pruning = math.sqrt(self.pruning)
        self._prune(rows, scores, self.pruning)
        # Relative to the score, margin / end-point: the margin cancels.
        half_width = winner.fit.estimate * (1 / winner.fit.lower - 1 / winner.fit.upper) / 2
        self.active[rows[half_width <= tolerance]] = False

    def columns(self) -> dict[str, Tensor]:
        """The columns of `CleverScores`, but for the passes."""
        return {
            **self.numbers,
            **self.flags,
            "target": self.target,
            "blocks": self.blocks,
            "status": self.status,
        }

    def _prune(self, rows: Tensor, scores: Tensor, factor: float) -> None:
        # A zero gradient makes a score infinite, a broken one NaN. Such a target goes on, to be reported.
        finite = scores.isfinite()
        smallest = torch.where(finite, scores, torch.inf).amin(dim=1, keepdim=True)
        self.kept[rows] &= (scores <= factor * smallest) | ~finite

    def _give_up_without_gradients(self, blocks: int) -> None:
        wanted = self.wanted()
        zeros = self.gradients.zeros[:, :, :blocks].sum(dim=2)
        zero = (wanted & (2 * zeros >= blocks * self.gradients.block_size)).any(dim=1)
        broken = (wanted & ~self.maxima[:, :, :blocks].amax(dim=2).isfinite()).any(dim=1)
        self.flags["zero_gradient"] |= zero
        self.flags["broken_gradient"] |= broken
        self._give_up(zero | broken)

    def _give_up_masked(self, rows: Tensor, kept: Tensor, fits: EndPoint, blocks: int) -> None:
        largest = torch.full_like(self.margins[rows], torch.inf)
        largest[kept] = fits.estimate
        # A thousandth for the rounding of the perturbation and its norm.
        steeper = (self.slopes[rows, :, :blocks].amax(dim=2) > 1.001 * largest).any(dim=1)
        masked = torch.zeros_like(self.active)
        masked[rows] = steeper
        self.flags["masked_gradient"] |= masked
        self._give_up(masked)

    def _give_up(self, images: Tensor) -> None:
        """These images have no score."""
        self.active &= ~images
        self.status[images] = Status.UNAVAILABLE
        self.target[images] = -1
        for name in NUMBERS:
            self.numbers[name][images] = torch.nan
        for name in ("saturated", "degenerate_fit", "no_finite_endpoint"):
            self.flags[name][images] = False

    def _write(
        self, rows: Tensor, winner: "_Winner", margins: Tensor, maxima: Tensor, kept: Tensor, blocks: int
    ) -> None:
        fit, radius = winner.fit, self.radius[rows]
        column = winner.column[:, None]
        bound = margins.gather(1, column).squeeze(1)
        score = bound / fit.estimate
        values = {
            "score": score.minimum(radius),
            "lower": (bound / fit.upper).minimum(radius),
            "upper": (bound / fit.lower).minimum(radius),
            "raw": torch.where(kept, margins / maxima.amax(dim=2), torch.inf).amin(dim=1),
            "margin": bound,
            "lipschitz": fit.estimate,
            "shape": fit.shape,
            "p_value": fit.p_value,
        }
        for name, value in values.items():
            self.numbers[name][rows] = value
        self.flags["saturated"][rows] = score >= radius
        self.flags["degenerate_fit"][rows] = fit.degenerate
        self.flags["no_finite_endpoint"][rows] = fit.no_finite_endpoint
        self.target[rows] = self.gradients.targets[rows].gather(1, column).squeeze(1)
        self.blocks[rows] = blocks
        self.status[rows] = torch.where(score >= radius, Status.SATURATED, Status.ESTIMATED)


@dataclass(frozen=True)
class _Winner:
    """The target with the smallest score of each image: its column, and its fit."""

    column: Tensor
    fit: EndPoint


def _winner(scores: Tensor, kept: Tensor, fits: EndPoint) -> _Winner:
    column = scores.argmin(dim=1)
    # Where in the list of all fits the winner's stands.
    position = (kept.flatten().cumsum(0) - 1).view(kept.shape).gather(1, column[:, None]).squeeze(1)
    return _Winner(column, EndPoint(**{name: value[position] for name, value in vars(fits).items()}))
