"""The images that an adversary may choose from: a ball around each image, cut by the box [0, 1]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.rounding import row_sums
from metrics.norms import Norm, per_row


@dataclass(frozen=True)
class Ball:
    """For each of N images, all images of the box within a radius.

    Attributes:
        images: shape (N, C, H, W), values in [0, 1].
        epsilon: the radii, shape (N,), 0 or more.
        norm: "linf" or "l2".
    """

    images: Tensor
    epsilon: Tensor
    norm: Norm

    def interval(self) -> Interval:
        """The smallest and the largest value of every pixel; for an L2 ball, this is the box around it."""
        # Widen the ball a little, so that the rounding of the sum does not cut off its edge.
        epsilon = per_row(self.epsilon, self.images) + torch.finfo(self.images.dtype).eps
        return Interval((self.images - epsilon).clamp_min(0), (self.images + epsilon).clamp_max(1))

    def rows(self, images: Tensor) -> "Ball":
        """The balls around some of the images."""
        return Ball(self.images[images], self.epsilon[images], self.norm)

    def least(self, coefficients: Tensor) -> Tensor:
        """Lower bounds of linear functions of the image on the ball, shape (n, R), in float64.

        Args:
            coefficients: shape (n, R, C, H, W), of R functions for each of the n images of the ball.
        """
        # Pixels are at most 1, so every term is at most |coefficient|. The slack covers the rounding of a product and
        # of the sum over one row of pixels, see `row_sums`.
        unit = torch.finfo(coefficients.dtype).eps * (coefficients.shape[-1] + 4)
        slack = unit * row_sums(coefficients.abs())
        if self.norm == "linf":
            lower, upper = self.interval()
            falling = coefficients.clamp_min(0)
            return row_sums(falling * (lower - upper)[:, None]) + row_sums(coefficients * upper[:, None]) - slack
        return row_sums(coefficients * self.images[:, None]) - self._largest_gain(coefficients) - slack

    def _largest_gain(self, coefficients: Tensor) -> Tensor:
        """An upper bound of how far an L2 perturbation within the box can lower the functions.

        This is the maximum of sum(slope * t) over 0 <= t <= room and |t| <= epsilon. For any multiplier m > 0 it is at
        most m epsilon^2 / 2 plus the sum of the maxima of slope * t - m t^2 / 2 over each t (Lagrange). Two multipliers
        are tried. The first is |slope| / epsilon over all values that have room. Its bound, with the limits of the room
        ignored, is |slope| * epsilon. The second is the same over the values that the first leaves within their room,
        with what the others leave of epsilon.
        """
        images = self.images[:, None]
        epsilon = self.epsilon.double()[:, None] * (1 + 1e-6) + 1e-9
        room = torch.where(coefficients > 0, images, 1 - images)
        slopes = torch.where(room > 0, coefficients.abs(), 0)
        # Scale the slopes: squares of slopes below 1e-19 would vanish in float32, and their gain with them.
        steepest = slopes.flatten(2).amax(dim=2).clamp_min(torch.finfo(slopes.dtype).tiny)
        slopes = slopes / steepest[..., None, None, None]
        lengths = row_sums(slopes.square()).sqrt()
        scale = (lengths / epsilon).to(slopes.dtype)[..., None, None, None].clamp_min(torch.finfo(slopes.dtype).tiny)
        at_end = slopes >= scale * room
        left = epsilon.square() - row_sums(torch.where(at_end, room.square(), 0))
        free = row_sums(torch.where(at_end, 0, slopes).square())
        multiplier = torch.where(left > 0, (free / left.clamp_min(1e-30)).sqrt(), lengths / epsilon)
        scale = multiplier.to(slopes.dtype)[..., None, None, None].clamp_min(torch.finfo(slopes.dtype).tiny)
        step = torch.minimum(room, slopes / scale)
        halved = scale.view(multiplier.shape).double() * epsilon.square() / 2
        gain = torch.minimum(lengths * epsilon, row_sums((slopes - scale / 2 * step) * step) + halved)
        # No term is negative, so the rounding error of their sums is relative. The caller's slack covers the rounding
        # of the terms.
        return gain * steepest.double() * (1 + 1e-5)
