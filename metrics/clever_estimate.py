"""What is known of the CLEVER scores in one norm while sampling goes on: targets in the running, fits, flags."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from metrics.extreme_value import EndPoint, end_point
from metrics.gradient_norms import GradientNorms
from metrics.status import Status

AT_IMAGE = 1.6
"""The gradient at the image itself says less than a block of samples: so many times more slack in dropping targets."""

SURELY_ZERO = 0.95
"""Share of zero gradients that ends an image at once, among 16 or more; half of all do at the last look."""

MASKED = 10.0
"""A margin that changes so many times faster than its steepest gradient allows has another function's gradients. By
less, the samples may just have missed a steep place."""

NUMBERS = ("score", "lower", "upper", "raw", "margin", "lipschitz", "shape", "p_value")
FLAGS = (
    "saturated",
    "degenerate_fit",
    "no_finite_endpoint",
    "zero_gradient",
    "broken_gradient",
    "masked_gradient",
)


class RunningScores:
    """The scores of N images in one of the norms that are sampled, as far as blocks have been drawn.

    Args:
        gradients: what is sampled, for T targets of each image.
        index: of the norm.
        correct: the images that are classified correctly, bool, shape (N,); the others have no score.
        radius: the most that a score can be, shape (N,).
        pruning: the most slack that a target gets after the first block: it stays while its score there is at most this
            many times the smallest. Where the norms of its gradients hardly differ it gets less, see `prune_by_pilot`.
    """

    def __init__(self, gradients: GradientNorms, index: int, correct: Tensor, radius: Tensor, pruning: float) -> None:
        self.gradients = gradients
        self.maxima = gradients.maxima[index]
        self.means = gradients.means[index]
        self.slopes = gradients.slopes[index]
        self.margins = gradients.margins
        self.radius = radius
        self.pruning = pruning
        self.slack = torch.full_like(self.margins, pruning)
        self.at_image = torch.zeros_like(self.margins)
        self.active = correct.clone()
        self.kept = correct[:, None].expand_as(self.margins).clone()
        count, like = len(correct), self.margins
        self.numbers = {name: like.new_full((count,), torch.nan) for name in NUMBERS}
        self.flags = {name: torch.zeros_like(correct) for name in FLAGS}
        self.target = torch.full_like(gradients.targets[:, 0], -1)
        self.blocks = torch.zeros_like(self.target)
        self.winning = like.new_full((count, self.maxima.shape[2]), torch.nan)
        self.status = torch.full_like(self.target, Status.MISCLASSIFIED)

    def wanted(self) -> Tensor:
        """The targets that more samples are needed of, bool, shape (N, T)."""
        return self.kept & self.active[:, None]

    def prune_by_image(self, rows: Tensor, norms: Tensor) -> None:
        """Drop targets by the dual norms at the images `rows`, shape (R, T)."""
        self.at_image[rows] = norms
        # Zero there says nothing: a margin may have its maximum at the image.
        undecided = (norms == 0) | ~norms.isfinite()
        self._prune(rows, self.margins[rows] / norms, AT_IMAGE * self.slack[rows], undecided)

    def prune_by_pilot(self) -> None:
        """Drop targets by the first block, and images that it shows to have no gradients.

        The largest norm of a block of 64 is some 1.1 times the mean for a network on CIFAR-10, and up to 3 times in a
        ball that is large for the network. The square of that is how much further the end-point may well be.
        """
        if math.isfinite(self.pruning):
            spread = self.maxima[:, :, 0] / self.means[:, :, 0]
            self.slack = torch.where(spread.isfinite(), spread**2, self.pruning).clamp(1, self.pruning)
        rows = self.active.nonzero().flatten()
        if len(rows):
            largest = self.maxima[rows, :, 0].maximum(self._floor(rows, 1))
            self._prune(rows, self.margins[rows] / largest, self.slack[rows], ~largest.isfinite())
        self._give_up_without_gradients(1)

    def update(self, blocks: int, tolerance: float) -> None:
        """Fit `blocks` maxima of each target that is left, and end images whose interval is narrow enough."""
        self._give_up_without_gradients(blocks)
        rows = self.active.nonzero().flatten()
        if not len(rows):
            return
        kept, margins = self.kept[rows], self.margins[rows]
        maxima, floor = self.maxima[rows, :, :blocks], self._floor(rows, blocks)
        fits = _raised(end_point(maxima[kept]), floor[kept])
        scores = torch.full_like(margins, torch.inf)
        scores[kept] = margins[kept] / fits.estimate
        winner = _winner(scores, kept, fits)
        raw = torch.where(kept, margins / maxima.amax(dim=2).maximum(floor), torch.inf).amin(dim=1)
        self._write(rows, winner, margins, raw, maxima)
        self._give_up_masked(rows, kept, blocks)
        # Every look knows more than the one before, and needs less slack.
        self.slack = self.slack.sqrt()
        self._prune(rows, scores, self.slack[rows], torch.zeros_like(kept))
        # Relative to the score, margin / end-point: the margin cancels.
        half_width = winner.fit.estimate * (1 / winner.fit.lower - 1 / winner.fit.upper) / 2
        # A score that is at the radius even at the lower end of its interval is "at least", however long one samples.
        capped = self.numbers["lower"][rows] >= self.radius[rows]
        last = blocks == self.maxima.shape[2]
        ends = torch.zeros_like(self.active)
        ends[rows] = (half_width <= tolerance) | capped | last
        self._give_up_without_gradients(blocks, ends & self.active)
        self.active &= ~ends

    def columns(self) -> dict[str, Tensor]:
        """The columns of `CleverScores`, but for the passes."""
        columns = {"target": self.target, "blocks": self.blocks, "maxima": self.winning, "status": self.status}
        return {**self.numbers, **self.flags, **columns}

    def _floor(self, rows: Tensor, blocks: int) -> Tensor:
        """What the largest dual norm is at least, whatever a fit says: the one at the image, and the steepest slope."""
        return self.at_image[rows].maximum(self.slopes[rows, :, :blocks].amax(dim=2))

    def _prune(self, rows: Tensor, scores: Tensor, slack: Tensor, undecided: Tensor) -> None:
        """Drop what is above `slack` times the smallest score; the `undecided` go on, and are nobody's measure."""
        smallest = torch.where(self.kept[rows] & ~undecided, scores, torch.inf).amin(dim=1, keepdim=True)
        self.kept[rows] &= (scores <= slack * smallest) | undecided | smallest.isinf()

    def _give_up_without_gradients(self, blocks: int, ends: Tensor | None = None) -> None:
        """Images with a target in the running whose gradients are not finite, or zero too often to have a score.

        Those that end with this look have to be decided; for the others, only what is certain is.
        """
        wanted, samples = self.wanted(), blocks * self.gradients.block_size
        zeros = self.gradients.zeros[:, :, :blocks].sum(dim=2)
        least = torch.full_like(self.margins[:, :1], max(SURELY_ZERO * samples, 16))
        if ends is not None:
            least[ends] = samples / 2
        zero = (wanted & (zeros >= least)).any(dim=1)
        norms = self.maxima[:, :, :blocks].amax(dim=2) + self.at_image
        broken = (wanted & ~norms.isfinite()).any(dim=1)
        self.flags["zero_gradient"] |= zero
        self.flags["broken_gradient"] |= broken
        self._give_up(zero | broken)

    def _give_up_masked(self, rows: Tensor, kept: Tensor, blocks: int) -> None:
        slopes, norms = (table[rows, :, :blocks].amax(dim=2) for table in (self.slopes, self.maxima))
        norms = norms.maximum(self.at_image[rows])
        masked = torch.zeros_like(self.active)
        masked[rows] = (kept & (slopes > MASKED * norms)).any(dim=1)
        self.flags["masked_gradient"] |= masked
        self._give_up(masked)

    def _give_up(self, images: Tensor) -> None:
        """These images have no score."""
        self.active &= ~images
        self.status[images] = Status.UNAVAILABLE
        self.target[images] = -1
        self.winning[images] = torch.nan
        for name in NUMBERS:
            self.numbers[name][images] = torch.nan
        for name in ("saturated", "degenerate_fit", "no_finite_endpoint"):
            self.flags[name][images] = False

    def _write(self, rows: Tensor, winner: "_Winner", margins: Tensor, raw: Tensor, maxima: Tensor) -> None:
        fit, radius = winner.fit, self.radius[rows]
        column = winner.column[:, None]
        bound = margins.gather(1, column).squeeze(1)
        score = bound / fit.estimate
        values = {
            "score": score.minimum(radius),
            "lower": (bound / fit.upper).minimum(radius),
            "upper": (bound / fit.lower).minimum(radius),
            "raw": raw,
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
        self.blocks[rows] = maxima.shape[2]
        self.winning[rows, : maxima.shape[2]] = maxima[torch.arange(len(rows), device=rows.device), winner.column]
        self.status[rows] = torch.where(score >= radius, Status.SATURATED, Status.ESTIMATED)


def _raised(fits: EndPoint, floor: Tensor) -> EndPoint:
    """End-points and their intervals, nowhere below what the end-point is known to be at least."""
    return replace(fits, **{name: getattr(fits, name).maximum(floor) for name in ("estimate", "lower", "upper")})


@dataclass(frozen=True)
class _Winner:
    """The target with the smallest score of each image: its column, and its fit."""

    column: Tensor
    fit: EndPoint


def _winner(scores: Tensor, kept: Tensor, fits: EndPoint) -> _Winner:
    column = scores.argmin(dim=1)
    # Where in the list of all fits the winner's stands.
    position = (kept.flatten().cumsum(0) - 1).view(kept.shape).gather(1, column[:, None]).squeeze(1)
    return _Winner(column, EndPoint(**{one.name: getattr(fits, one.name)[position] for one in fields(fits)}))
