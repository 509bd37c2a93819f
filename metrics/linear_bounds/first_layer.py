"""Intervals of the first layers on an L2 ball, in closed form. Intervals of pixels alone bound the box around the ball.

Before the first activation, a network moves, rescales and then sums pixels. A sum can fall by at most epsilon times the
L2 norm of its slopes. Only pixels that have room in the box to move in the right direction count.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metrics.linear_bounds.ball import Ball
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Affine
from metrics.linear_bounds.relaxations import rounding_of


class Slopes(NamedTuple):
    """Each value of a layer at the image, and the squared L2 norms of the slopes along which it can fall and rise.

    The squares are in float64, because small ones underflow in float32. `slack` bounds the rounding error of the value
    so far.
    """

    value: Tensor
    falling: Tensor
    rising: Tensor
    slack: Tensor

    @classmethod
    def of_pixels(cls, images: Tensor) -> "Slopes":
        """Black pixels cannot fall, white ones cannot rise."""
        return cls(images, (images > 0).double(), (images < 1).double(), torch.zeros_like(images))

    def through(self, operation: Affine, operand: Interval) -> "Slopes":
        """The slopes after an operation whose operand is in an interval. No sum may contain the same pixel twice."""

        def squares(along: Tensor, against: Tensor) -> Tensor:
            if not operation.fan_in:
                return operation.linear(along)
            positive = operation.linear(along, lambda weight: weight.double().clamp_min(0).square())
            return positive + operation.linear(against, lambda weight: weight.double().clamp_max(0).square())

        slack = operation.linear(self.slack, torch.abs)
        return Slopes(
            operation.apply(self.value),
            squares(self.falling, self.rising),
            squares(self.rising, self.falling),
            slack + rounding_of(operation, operand) if operation.fan_in else slack,
        )

    def interval(self, ball: Ball) -> Interval:
        """The interval of the values on the ball."""
        epsilon = ball.epsilon.double().view(-1, *[1] * (self.value.dim() - 1)) * (1 + 1e-6) + 1e-9
        # The 1e-300 covers squares that underflow even in float64.
        fall, rise = (
            (epsilon * (squares + 1e-300).sqrt() * (1 + 1e-6)).to(self.value.dtype)
            for squares in (self.falling, self.rising)
        )
        slack = self.slack + 2 * torch.finfo(self.value.dtype).eps * (self.value.abs() + fall + rise)
        return Interval(self.value - fall - slack, self.value + rise + slack)
