"""Block maxima of gradient norms at random points, drawn as needed. All targets of an image share the points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.batches import halving_batches
from metrics.generators import moved
from metrics.gradient_norms.sampling import Sampling, perturbations
from metrics.norms import DUAL, Norm, per_row, vector_norm
from metrics.passes import Passes, rounding_slack


class GradientNorms:
    """Samples of gradient norms around N images, for T targets each, in M norms that share the points.

    A sample is the gradient of logit[label] - logit[target] at a random point of [0, 1] within the radius. Only
    statistics of blocks are kept. `draw` fills them in, block by block; they are 0 until then.

    Attributes:
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
        self.norms = tuple(norms)
        self.sampling = sampling
        self.block_size = block_size
        self.batch_size = batch_size
        self.generators = generators
        self.margins = logits.gather(1, labels[:, None]) - logits.gather(1, targets)
        # Twice the slack: for the margin of the image, and for that of the sample.
        self.slack = 2 * rounding_slack(logits, labels, passes.eps)
        self.maxima = torch.zeros(len(self.norms), *targets.shape, blocks, dtype=images.dtype, device=images.device)
        self.means = torch.zeros_like(self.maxima)
        self.slopes = torch.zeros_like(self.maxima)
        self.zeros = torch.zeros(*targets.shape, blocks, dtype=torch.long, device=images.device)

    def at_images(self, rows: Tensor) -> Tensor:
        """The dual norms of the gradients at the images themselves, shape (M, R, T)."""
        columns = torch.arange(self.targets.shape[1], device=rows.device).expand(len(rows), -1)
        return self._in_batches(self.images[rows], rows, columns)[0]

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
        drawn = moved(torch.cat([self._drawn(image) for image in images]), rows.device)
        points = drawn.mul_(per_row(self.radius[owners], drawn)).add_(self.images[owners]).clamp_(0, 1)
        norms, slopes = self._in_batches(points, owners, columns.repeat_interleave(self.block_size, dim=0))
        index = rows[:, None], columns, blocks[:, None]
        by_block = len(self.norms), len(rows), self.block_size, columns.shape[1]
        self.maxima[:, *index] = norms.view(by_block).amax(dim=2)
        self.means[:, *index] = norms.view(by_block).mean(dim=2)
        self.slopes[:, *index] = slopes.view(by_block).amax(dim=2)
        self.zeros[index] = (norms[0] == 0).view(by_block[1:]).sum(dim=1)

    def _drawn(self, image: int) -> Tensor:
        """Draw one block for an image, within radius 1: always a whole block, which does not depend on the batch."""
        shape, dtype = self.images.shape[1:], self.images.dtype
        return perturbations(self.sampling, self.norms[0], self.block_size, shape, self.generators[image], dtype)

    def _in_batches(self, points: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        def measured(first: int, last: int) -> tuple[Tensor, Tensor]:
            part = slice(first, last)
            return self._at(points[part], rows[part], columns[part])

        parts = halving_batches(measured, len(points), self.batch_size)
        if len(parts) > 1:
            self.batch_size = max(1, parts[1][0])  # keep the size that fitted into memory
        norms, slopes = zip(*(part for _, part in parts), strict=True)
        return torch.cat(norms, dim=1), torch.cat(slopes, dim=1)

    def _at(self, points: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Dual norms and slopes at points, each (M, P, T')."""
        targets = self.targets[rows].gather(1, columns)
        clean = self.margins[rows].gather(1, columns)
        # Too near the image, a slope is mostly rounding.
        nearest = 1e-3 * self.radius[rows]
        steps = [vector_norm(points - self.images[rows], norm).maximum(nearest) for norm in self.norms]
        norms = torch.empty(len(self.norms), *columns.shape, dtype=points.dtype, device=points.device)
        slopes = torch.empty_like(norms)
        gradients = self.passes.target_gradients(points, self.labels[rows], targets, rows)
        for column, (margins, gradient) in enumerate(gradients):
            change = ((margins - clean[:, column]).abs() - self.slack[rows]).clamp_min(0)
            for index, norm in enumerate(self.norms):
                norms[index, :, column] = vector_norm(gradient, DUAL[norm])
                slopes[index, :, column] = change / steps[index]
        return norms, slopes
