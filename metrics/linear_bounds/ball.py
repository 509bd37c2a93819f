"""The images that an adversary may choose from: a ball around each image, cut by the box [0, 1]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.rounding import row_sums
from metrics.norms import Norm, per_row


@dataclass(frozen=True)
class Ball:
    """All images of the box within a distance of each of N images.

    Attributes:
        images: shape (N, C, H, W), values in [0, 1].
        epsilon: the radii, shape (N,), 0 or more.
        norm: "linf" or "l2".
    """

    images: Tensor
    epsilon: Tensor
    norm: Norm

    def interval(self) -> Interval:
        """The smallest and the largest value of every pixel: of the box around an L2 ball."""
        # Rounding of the sum may not cut off what is on the edge of the ball.
        epsilon = per_row(self.epsilon, self.images) + torch.finfo(self.images.dtype).eps
        return Interval((self.images - epsilon).clamp_min(0), (self.images + epsilon).clamp_max(1))

    def rows(self, images: Tensor) -> "Ball":
        """The balls around some of the images."""
        return Ball(self.images[images], self.epsilon[images], self.norm)

    def least(self, coefficients: Tensor) -> Tensor:
        """The smallest value of linear functions of the image, or less, (n, R), in float64.

        Args:
            coefficients: shape (n, R, C, H, W), of R functions for each of the n images of the ball.
        """
        # All terms are at most |coefficient|: pixels are. The rounding of a product and of a line of pixels.
        unit = torch.finfo(coefficients.dtype).eps * (coefficients.shape[-1] + 4)
        slack = unit * row_sums(coefficients.abs())
        if self.norm == "linf":
            lower, upper = self.interval()
            falling = coefficients.clamp_min(0)
            return row_sums(falling * (lower - upper)[:, None]) + row_sums(coefficients * upper[:, None]) - slack
        return row_sums(coefficients * self.images[:, None]) - self._largest_gain(coefficients) - slack

    def _largest_gain(self, coefficients: Tensor) -> Tensor:
        """How far an L2 perturbation within the box can lower the functions, or more.

        The largest of sum(slope * t) over 0 <= t <= room and |t| <= epsilon is at most, for any multiplier m > 0, the
        sum of the largest of slope * t - m t^2 / 2 over each t, plus m epsilon^2 / 2 (Lagrange). Two multipliers are
        tried: |slope| / epsilon of all values that have room, and of those alone that the first leaves within theirs.
        """
        images = self.images[:, None]
        epsilon = self.epsilon.double()[:, None] * (1 + 1e-6) + 1e-9
        room = torch.where(coefficients > 0, images, 1 - images)
        slopes = torch.where(room > 0, coefficients.abs(), 0)
        # Squares of slopes below 1e-19 would vanish in float32, and with them what they can do.
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
        # The rounding of sums of terms that are not negative is relative; the caller's slack is that of the terms.
        return gain * steepest.double() * (1 + 1e-5)
