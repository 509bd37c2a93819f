"""The state of the CLEVER scores in one norm during sampling: remaining targets, fits, flags."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from metrics.extreme_value import EndPoint, end_point
from metrics.gradient_norms import GradientNorms
from metrics.status import Status

AT_IMAGE = 1.6
"""Factor on the slack when targets are dropped by the gradient at the image: it says less than a block of samples."""

SURELY_ZERO = 0.95
"""Share of zero gradients, and at least 16 of them, at which an image is given up at once. At its last look, half of
all gradients suffice."""

MASKED = 10.0
"""Gradients count as masked where the margin changes more than this many times as fast as the steepest gradient allows.
At a smaller factor, the samples may just have missed a steep place."""

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
    """The scores of N images in one of the sampled norms, from the blocks drawn so far.

    Args:
        gradients: the sampled gradient norms, for T targets of each image.
        index: index of the norm.
        correct: whether each image is classified correctly, bool, shape (N,). The others have no score.
        radius: radius of the ball that the samples cover, shape (N,).
        pruning: the largest slack of a target after the first block: it stays while its score there is at most this
            many times the smallest. Targets whose gradient norms hardly differ get less slack, see `prune_by_pilot`.
    """

    def __init__(self, gradients: GradientNorms, index: int, correct: Tensor, radius: Tensor, pruning: float) -> None:
        self.gradients = gradients
        self.maxima = gradients.maxima[index]
        self.means = gradients.means[index]
        self.slopes = gradients.slopes[index]
        self.margins = gradients.margins
        self.largest = radius.minimum(gradients.label_change)
        self.pruning = pruning
        self.slack = torch.full_like(self.margins, pruning)
        self.at_image = gradients.at_image[index]
        self.on_descent = gradients.on_descent[index]
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
        """Return the targets that need more samples, bool, shape (N, T)."""
        return self.kept & self.active[:, None]

    def prune_by_image(self, rows: Tensor) -> None:
        """Drop targets of the images `rows`, shape (R,), by the dual norms there."""
        norms = self.at_image[rows]
        # A zero gradient says nothing here: the margin may have its maximum at the image.
        undecided = (norms == 0) | ~norms.isfinite()
        self._prune(rows, self.margins[rows] / norms, AT_IMAGE * self.slack[rows], undecided)

    def pilots(self, count: int) -> Tensor:
        """Return the `count` remaining targets of each image with the smallest scores there, bool, shape (N, T)."""
        scores = torch.where(self.wanted(), self.margins / self.at_image, torch.inf)
        nearest = scores.topk(min(count, scores.shape[1]), dim=1, largest=False).indices
        return torch.zeros_like(self.kept).scatter(1, nearest, value=True) & self.wanted()

    def prune_by_spread(self, pilots: Tensor) -> None:
        """Drop targets by the gradient at the image, with the slack that the first block of some `pilots` shows.

        Args:
            pilots: the targets whose first block is drawn, bool, shape (N, T).
        """
        if not math.isfinite(self.pruning):
            return
        spread = torch.where(pilots, self.maxima[:, :, 0] / self.means[:, :, 0], 1).amax(dim=1, keepdim=True)
        slack = torch.where(spread.isfinite(), spread**2, self.pruning).clamp(1, self.pruning)
        rows = self.active.nonzero().flatten()
        norms = self.at_image[rows]
        undecided = (norms == 0) | ~norms.isfinite()
        self._prune(rows, self.margins[rows] / norms, AT_IMAGE * slack[rows], undecided)

    def prune_by_pilot(self) -> None:
        """Drop targets by the first block, and give up images whose gradients are zero or not finite in it.

        The largest norm of a block of 64 is about 1.1 times the mean for a network on CIFAR-10, and up to 3 times the
        mean in a ball that is large for the network. The slack is the square of this ratio, because the end-point may
        well be larger by that factor.
        """
        if math.isfinite(self.pruning):
            spread = self.maxima[:, :, 0] / self.means[:, :, 0]
            if self.gradients.sampling == "walks":
                # Few walks tell little about their spread. The rise from the image to their steepest point tells more.
                spread = spread.maximum(self.maxima[:, :, 0] / self.at_image)
            self.slack = torch.where(spread.isfinite(), spread**2, self.pruning).clamp(1, self.pruning)
        rows = self.active.nonzero().flatten()
        if len(rows):
            largest = self.maxima[rows, :, 0].maximum(self._floor(rows, 1))
            self._prune(rows, self.margins[rows] / largest, self.slack[rows], ~largest.isfinite())
        self._give_up_without_gradients(1)

    def update(self, blocks: int, tolerance: float) -> None:
        """Fit the first `blocks` maxima of each remaining target, and end images whose interval is narrow enough."""
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
        # Each look has more samples than the one before, so it needs less slack.
        self.slack = self.slack.sqrt()
        self._prune(rows, scores, self.slack[rows], torch.zeros_like(kept))
        # Relative to the score, margin / end-point: the margin cancels.
        half_width = winner.fit.estimate * (1 / winner.fit.lower - 1 / winner.fit.upper) / 2
        # Where even the lower end of the interval is at the largest score, more samples are unlikely to change it.
        capped = self.numbers["lower"][rows] >= self.largest[rows]
        last = blocks == self.maxima.shape[2]
        ends = torch.zeros_like(self.active)
        ends[rows] = (half_width <= tolerance) | capped | last
        self._give_up_without_gradients(blocks, ends & self.active)
        self.active &= ~ends

    def columns(self) -> dict[str, Tensor]:
        """Return the columns of `CleverScores`, except the passes."""
        columns = {"target": self.target, "blocks": self.blocks, "maxima": self.winning, "status": self.status}
        return {**self.numbers, **self.flags, **columns}

    def _floor(self, rows: Tensor, blocks: int) -> Tensor:
        """Return a lower bound of the largest dual norm: the largest norm that is no sample, or the steepest slope."""
        norms = self.at_image[rows].maximum(self.on_descent[rows])
        return norms.maximum(self.slopes[rows, :, :blocks].amax(dim=2))

    def _prune(self, rows: Tensor, scores: Tensor, slack: Tensor, undecided: Tensor) -> None:
        """Drop targets above `slack` times the smallest score. `undecided` targets stay, and are never the smallest."""
        smallest = torch.where(self.kept[rows] & ~undecided, scores, torch.inf).amin(dim=1, keepdim=True)
        self.kept[rows] &= (scores <= slack * smallest) | undecided | smallest.isinf()

    def _give_up_without_gradients(self, blocks: int, ends: Tensor | None = None) -> None:
        """Give up images with a remaining target whose gradients are not finite, or zero too often for a score.

        Images that end at this look are decided now. The others are given up only where the case is clear.
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
        """Mark images as having no score."""
        self.active &= ~images
        self.status.masked_fill_(images, Status.UNAVAILABLE)
        self.target.masked_fill_(images, -1)
        self.winning.masked_fill_(images.view(-1, *[1] * (self.winning.dim() - 1)), torch.nan)
        for name in NUMBERS:
            self.numbers[name].masked_fill_(images, torch.nan)
        for name in ("saturated", "degenerate_fit", "no_finite_endpoint"):
            self.flags[name] &= ~images

    def _write(self, rows: Tensor, winner: "_Winner", margins: Tensor, raw: Tensor, maxima: Tensor) -> None:
        fit, largest = winner.fit, self.largest[rows]
        column = winner.column[:, None]
        bound = margins.gather(1, column).squeeze(1)
        score = bound / fit.estimate
        values = {
            "score": score.minimum(largest),
            "lower": (bound / fit.upper).minimum(largest),
            "upper": (bound / fit.lower).minimum(largest),
            "raw": raw,
            "margin": bound,
            "lipschitz": fit.estimate,
            "shape": fit.shape,
            "p_value": fit.p_value,
        }
        for name, value in values.items():
            self.numbers[name][rows] = value
        saturated = (score >= largest) & self.gradients.label_change[rows].isinf()
        self.flags["saturated"][rows] = saturated
        self.flags["degenerate_fit"][rows] = fit.degenerate
        self.flags["no_finite_endpoint"][rows] = fit.no_finite_endpoint
        self.target[rows] = self.gradients.targets[rows].gather(1, column).squeeze(1)
        self.blocks[rows] = maxima.shape[2]
        self.winning[rows, : maxima.shape[2]] = maxima[torch.arange(len(rows), device=rows.device), winner.column]
        self.status[rows] = torch.where(saturated, Status.SATURATED, Status.ESTIMATED)


def _raised(fits: EndPoint, floor: Tensor) -> EndPoint:
    """Raise end-points and their intervals to at least `floor`, the known lower bound of the end-point."""
    return replace(fits, **{name: getattr(fits, name).maximum(floor) for name in ("estimate", "lower", "upper")})


@dataclass(frozen=True)
class _Winner:
    """The target with the smallest score of each image: its column, and its fit."""

    column: Tensor
    fit: EndPoint


def _winner(scores: Tensor, kept: Tensor, fits: EndPoint) -> _Winner:
    column = scores.argmin(dim=1)
    # Position of the winner's fit in the list of all fits.
    position = (kept.flatten().cumsum(0) - 1).view(kept.shape).gather(1, column[:, None]).squeeze(1)
    return _Winner(column, EndPoint(**{one.name: getattr(fits, one.name)[position] for one in fields(fits)}))
