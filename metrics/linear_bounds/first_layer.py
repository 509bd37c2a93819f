"""The values of the first layers on an L2 ball, in closed form: no interval of pixels knows that the ball is round.

Before the first activation, a network moves, rescales and then sums pixels. A sum falls by at most epsilon times the
length of its slopes, counting the pixels that have room to move that way within the box.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metrics.linear_bounds.ball import Ball
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Affine
from metrics.linear_bounds.relaxations import rounding_of


class Slopes(NamedTuple):
    """Of each value of a layer at the image: itself, and the squared length of its slopes downwards and upwards.

    The squares are in float64, where they do not vanish; `slack` is what rounding has done to the value so far.
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
        """After an operation on values within an interval, none of whose sums has the same pixel twice."""

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
        """What the values can be on the ball."""
        epsilon = ball.epsilon.double().view(-1, *[1] * (self.value.dim() - 1)) * (1 + 1e-6) + 1e-9
        # Less than the smallest square that float64 holds does not vanish either.
        fall, rise = (
            (epsilon * (squares + 1e-300).sqrt() * (1 + 1e-6)).to(self.value.dtype)
            for squares in (self.falling, self.rising)
        )
        slack = self.slack + 2 * torch.finfo(self.value.dtype).eps * (self.value.abs() + fall + rise)
        return Interval(self.value - fall - slack, self.value + rise + slack)
