"""Block maxima of gradient norms at random points, drawn as needed. All targets of an image share the points."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.generators import moved
from metrics.gradient_norms.label_change import keeps_label, nearest_label_change
from metrics.gradient_norms.sampling import Sampling, perturbations
from metrics.gradient_norms.walks import STEPS, free_values, stepped
from metrics.norms import DUAL, Norm, per_row, vector_norm
from metrics.passes import Passes, margin, rounding_slack

BEYOND = 1.15
"""Radius of the ball of the walks, as a multiple of the distance of the label change. In a larger ball, walks meet more
steep places before they end; at 1.3 times the distance, the intervals are wider, and on digits the scores lower."""


@dataclass(frozen=True)
class _Place:
    """P points, and the gradients of a margin there.

    Attributes:
        points: shape (P, C, H, W).
        rows: the image of each point, shape (P,).
        columns: the column of `targets` of each margin, shape (P,).
        logits: shape (P, K).
        gradients: of the margins, of the shape of `points`.
    """

    points: Tensor
    rows: Tensor
    columns: Tensor
    logits: Tensor
    gradients: Tensor

    def of(self, some: Tensor) -> "_Place":
        """Some of the points, given a mask or indices."""
        return _Place(*(getattr(self, one.name)[some] for one in fields(self)))


class GradientNorms:
    """Samples of gradient norms around N images, for T targets each, in M norms that share the points.

    A sample is the gradient of logit[label] - logit[target] at a random point of [0, 1] within the radius, or the
    steepest gradient of a walk. Only statistics of blocks are kept. `draw` fills them in, block by block; they are 0
    until then. `measure_images` comes first.

    Attributes:
        radius: of the ball around each image that holds the samples, shape (N,). With walks, at most `BEYOND` times the
            distance of the label change.
        label_change: with walks, the distance of the label change that was found within the radius given, shape (N,);
            inf if there is none.
        at_image: dual norms of the gradients at the images, shape (M, N, T).
        on_descent: with walks, the largest dual norms on the descent to the label change, shape (M, N, T).
        margins: of the clean images, shape (N, T).
        maxima: largest dual norm in a block, shape (M, N, T, B). NaN or infinite if a gradient is.
        means: mean dual norm in a block, shape (M, N, T, B).
        slopes: largest |change of the margin| / norm of the perturbation in a block, after subtracting the rounding
            slack from the change, shape (M, N, T, B). By the mean value theorem it cannot exceed the largest dual norm
            between image and sample.
        zeros: number of samples in a block with a zero gradient, shape (N, T, B).
    """

    def __init__(
        self,
        passes: Passes,
        images: Tensor,
        labels: Tensor,
        logits: Tensor,
        targets: Tensor,
        radius: Tensor,
        *,
        norms: Sequence[Norm],
        sampling: Sampling,
        blocks: int,
        block_size: int,
        batch_size: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.passes = passes
        self.images = images
        self.labels = labels
        self.targets = targets
        self.radius = radius
        self.label_change = torch.full_like(radius, torch.inf)
        self.norms = tuple(norms)
        self.sampling = sampling
        self.block_size = block_size
        self.batch_size = batch_size
        self.generators = generators
        self.margins = logits.gather(1, labels[:, None]) - logits.gather(1, targets)
        # Twice the slack: for the margin of the image, and for that of the sample.
        self.slack = 2 * rounding_slack(logits, labels, passes.eps)
        self.at_image = torch.zeros(len(self.norms), *targets.shape, dtype=images.dtype, device=images.device)
        self.on_descent = torch.zeros_like(self.at_image)
        self.maxima = torch.zeros(len(self.norms), *targets.shape, blocks, dtype=images.dtype, device=images.device)
        self.means = torch.zeros_like(self.maxima)
        self.slopes = torch.zeros_like(self.maxima)
        self.zeros = torch.zeros(*targets.shape, blocks, dtype=torch.long, device=images.device)

    def measure_images(self, rows: Tensor) -> None:
        """Measure the gradients at the images themselves. Walks then get their radius: that of a label change."""
        columns = torch.arange(self.targets.shape[1], device=rows.device).expand(len(rows), -1)
        no_steps = torch.empty(len(rows), 0, 0, dtype=torch.bool, device=rows.device)
        self.at_image[:, rows] = self._in_batches(self.images[rows], rows, columns, no_steps)[0]
        if self.sampling == "walks":
            distances, steepest = nearest_label_change(
                self.passes,
                self.images[rows],
                self.labels[rows],
                self.targets[rows],
                self.margins[rows],
                self.at_image[0, rows],
                self.norms[0],
                rows,
            )
            radius = self.radius[rows]
            within = distances <= radius
            self.label_change[rows] = torch.where(within, distances, torch.inf)
            # Where the label changes beyond the radius only, the descent leaves the ball.
            self.on_descent[0, rows] = torch.where(within[:, None], steepest, 0)
            self.radius = self.radius.index_put((rows,), radius.minimum(BEYOND * distances))

    def draw(self, wanted: Tensor, blocks: range) -> None:
        """Sample `blocks` for the targets where `wanted`, bool, shape (N, T), is true."""
        counts = wanted.sum(dim=1)
        for count in counts.unique().tolist():
            if count and len(blocks):
                # Images with the same number of targets share batches, so that no backward pass is wasted on padding.
                rows = (counts == count).nonzero().flatten()
                columns = wanted[rows].nonzero()[:, 1].view(len(rows), count)
                self._draw(rows, columns, blocks)

    def _draw(self, rows: Tensor, columns: Tensor, blocks: range) -> None:
        block_of = torch.arange(blocks.start, blocks.stop, device=rows.device).repeat(len(rows))
        position_of = torch.arange(len(rows), device=rows.device).repeat_interleave(len(blocks))
        images = [row for row in rows.tolist() for _ in blocks]
        at_once = max(1, self.batch_size // self.block_size)
        for first in range(0, len(images), at_once):
            part = slice(first, first + at_once)
            position = position_of[part]
            self._draw_blocks(images[part], rows[position], columns[position], block_of[part])

    def _draw_blocks(self, images: Sequence[int], rows: Tensor, columns: Tensor, blocks: Tensor) -> None:
        """Draw U blocks, given the image of each, its targets (U, T') and its block number (U,).

        The images are given twice: `rows` are on the device, and to read them from there would make a GPU wait.
        """
        owners = rows.repeat_interleave(self.block_size)
        each = [self._drawn(image) for image in images]
        drawn, free = (moved(torch.cat(parts), rows.device) for parts in zip(*each, strict=True))
        points = drawn.mul_(per_row(self.radius[owners], drawn)).add_(self.images[owners]).clamp_(0, 1)
        columns_of_points = columns.repeat_interleave(self.block_size, dim=0)
        norms, slopes, zeros = self._in_batches(points, owners, columns_of_points, free)
        index = rows[:, None], columns, blocks[:, None]
        by_block = len(self.norms), len(rows), self.block_size, columns.shape[1]
        self.maxima[:, *index] = norms.view(by_block).amax(dim=2)
        self.means[:, *index] = norms.view(by_block).mean(dim=2)
        self.slopes[:, *index] = slopes.view(by_block).amax(dim=2)
        self.zeros[index] = zeros.view(by_block[1:]).sum(dim=1)

    def _drawn(self, image: int) -> tuple[Tensor, Tensor]:
        """Draw one block for an image: always a whole block, which does not depend on the batch.

        Returns:
            Perturbations within radius 1, shape (block_size, C, H, W), and what each step of their walks may move,
            bool, shape (block_size, steps, number of values): no steps without walks, no values if all may move.
        """
        shape, dtype, generator = self.images.shape[1:], self.images.dtype, self.generators[image]
        starts = perturbations(self.sampling, self.norms[0], self.block_size, shape, generator, dtype)
        if self.sampling != "walks":
            return starts, torch.empty(self.block_size, 0, 0, dtype=torch.bool)
        if self.norms[0] != "l1":
            return starts, torch.empty(self.block_size, STEPS, 0, dtype=torch.bool)
        return starts, free_values(self.block_size, shape.numel(), generator)

    def _in_batches(self, points: Tensor, rows: Tensor, columns: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def measured(first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
            part = slice(first, last)
            return self._from(points[part], rows[part], columns[part], free[part])

        parts = halving_batches(measured, len(points), self.batch_size)
        if len(parts) > 1:
            self.batch_size = max(1, parts[1][0])  # keep the size that fitted into memory
        norms, slopes, zeros = zip(*(part for _, part in parts), strict=True)
        return torch.cat(norms, dim=1), torch.cat(slopes, dim=1), torch.cat(zeros)

    def _from(self, points: Tensor, rows: Tensor, columns: Tensor, free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Measure at points, and on the walks that start there, if they have steps.

        Returns:
            The largest dual norms and the largest slopes, each (M, P, T'), and whether the gradient at the point itself
            is zero, bool, shape (P, T').
        """
        targets = self.targets[rows].gather(1, columns)
        norms = torch.empty(len(self.norms), *columns.shape, dtype=points.dtype, device=points.device)
        slopes, zeros = torch.empty_like(norms), torch.empty_like(columns, dtype=torch.bool)
        gradients = self.passes.target_gradients(points, self.labels[rows], targets, rows)
        for column, (logits, gradient) in enumerate(gradients):
            place = _Place(points, rows, columns[:, column], logits, gradient)
            there = self._measured(place)
            zeros[:, column] = there[0][0] == 0
            norms[:, :, column], slopes[:, :, column] = self._walked(place, free, *there) if free.shape[1] else there
        return norms, slopes, zeros

    def _walked(self, place: "_Place", free: Tensor, norms: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest dual norms and slopes of the walks that start at places, each (1, P).

        A walk ends where the label changes, or where there is no gradient to follow. What is beyond a label change has
        no influence on the distance, so its gradient does not count. The image itself is a point of every walk.

        Args:
            place: P starts.
            free: what each step may move, bool, shape (P, steps, number of values); all, if that number is 0.
            norms: the dual norms at the starts, shape (1, P).
            slopes: the slopes from the images to the starts, shape (1, P).
        """
        kept = self._keeps_label(place)
        goes_on = kept & (norms[0] > 0)
        norms = torch.where(kept, norms, 0).maximum(self.at_image[:, place.rows, place.columns])
        going = goes_on.nonzero().flatten()
        for may_move in free.unbind(dim=1):
            if not len(going):
                break
            place = self._stepped(place.of(goes_on), may_move[going])
            there, rises = self._measured(place)
            kept = self._keeps_label(place)
            norms[:, going] = norms[:, going].maximum(torch.where(kept, there, 0))
            slopes[:, going] = slopes[:, going].maximum(rises)
            goes_on = kept & (there[0] > 0)
            going = going[goes_on]
        return norms, slopes

    def _stepped(self, place: "_Place", free: Tensor) -> "_Place":
        rows, labels, gradients = place.rows, self.labels[place.rows], place.gradients
        targets = self.targets[rows, place.columns]
        if free.shape[1]:
            gradients = gradients * free.view_as(gradients)
        points = stepped(place.points, gradients, self.images[rows], self.radius[rows], self.norms[0])
        of_target = functools.partial(margin, labels=labels, targets=targets)
        logits, gradients = self.passes.logits_and_gradient(points, rows, of_target)
        return _Place(points, rows, place.columns, logits, gradients)

    def _keeps_label(self, place: "_Place") -> Tensor:
        return keeps_label(place.logits, self.labels[place.rows], self.targets[place.rows])

    def _measured(self, place: "_Place") -> tuple[Tensor, Tensor]:
        """Dual norms of gradients and slopes of margins at places, each (M, P)."""
        rows, points = place.rows, place.points
        clean = self.margins[rows, place.columns]
        margins = self._margins(place)
        if self.sampling == "walks":
            margins = margins.clamp_min(0)  # how far it falls beyond the label change does not count
        change = ((margins - clean).abs() - self.slack[rows]).clamp_min(0)
        # Too near the image, a slope is mostly rounding.
        nearest = 1e-3 * self.radius[rows]
        steps = [vector_norm(points - self.images[rows], norm).maximum(nearest) for norm in self.norms]
        norms = [vector_norm(place.gradients, DUAL[norm]) for norm in self.norms]
        return torch.stack(norms), torch.stack([change / step for step in steps])

    def _margins(self, place: "_Place") -> Tensor:
        rows = place.rows
        return margin(place.logits, self.labels[rows], self.targets[rows, place.columns])
