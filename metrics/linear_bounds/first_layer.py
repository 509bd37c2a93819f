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
    """Of each value of a layer: at the image, and the squared length of its slopes downwards and upwards."""

    value: Tensor
    falling: Tensor
    rising: Tensor

    @classmethod
    def of_pixels(cls, images: Tensor) -> "Slopes":
        """Black pixels cannot fall, white ones cannot rise."""
        return cls(images, (images > 0).to(images.dtype), (images < 1).to(images.dtype))

    def through(self, operation: Affine) -> "Slopes":
        """After an operation, none of whose sums has the same pixel twice."""

        def squares(along: Tensor, against: Tensor) -> Tensor:
            if not operation.fan_in:
                return operation.linear(along)
            positive = operation.linear(along, lambda weight: weight.clamp_min(0).square())
            return positive + operation.linear(against, lambda weight: weight.clamp_max(0).square())

        return Slopes(
            operation.apply(self.value), squares(self.falling, self.rising), squares(self.rising, self.falling)
        )

    def interval(self, operation: Affine, operand: Interval, ball: Ball) -> Interval:
        """What the values can be on the ball; `operation` is the last one, on `operand`."""
        epsilon = ball.epsilon.view(-1, *[1] * (self.value.dim() - 1)) * (1 + 1e-5)
        slack = rounding_of(operation, operand) if operation.fan_in else torch.zeros_like(self.value)
        return Interval(
            self.value - epsilon * self.falling.sqrt() - slack, self.value + epsilon * self.rising.sqrt() + slack
        )
