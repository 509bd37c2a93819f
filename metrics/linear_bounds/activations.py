"""Elementwise activations: two lines that bound an activation on an interval, from below and from above.

For ReLU and leaky ReLU the lines have a closed form. For a smooth function f, any slope gives a bound: its offset is
the extreme value of f(z) - slope * z on a grid, widened by what the curvature of f allows between the points of the
grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metrics.linear_bounds.interval import Interval

GRID = 48
"""Number of grid steps in an interval on which a smooth activation is evaluated. The grid loosens the bounds by
curvature * width^2 / 18,432."""


JUMP = 4e-9
"""PyTorch computes softplus as log(1 + exp(z)) up to 20 and as z above, so it jumps by 2e-9 there."""


class Lines(NamedTuple):
    """lower_slope * z + lower_offset <= f(z) <= upper_slope * z + upper_offset: four tensors of shape (N, *shape)."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes:
        name: for messages.
        function: the activation, elementwise.
        negative_slope: slope below 0 of a ReLU (0) or leaky ReLU; None for a smooth function.
        curvature: the largest |second derivative| of a smooth function.
        turns: points where the derivative is 0; the function is monotonic between them.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    negative_slope: float | None = None
    curvature: float = 0.0
    turns: tuple[float, ...] = ()

    def interval(self, bounds: Interval) -> Interval:
        """The smallest and the largest value of the function between the bounds."""
        ends = [self.function(bounds.lower), self.function(bounds.upper)]
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        for turn in self.turns:
            inside = (bounds.lower < turn) & (bounds.upper > turn)
            value = self.function(torch.full_like(lower, turn))
            lower = torch.where(inside, torch.minimum(lower, value), lower)
            upper = torch.where(inside, torch.maximum(upper, value), upper)
        if self.negative_slope == 0:
            return Interval(lower, upper)
        # The value of the function is rounded, here and in the model. The rounding of a turn does not matter: the
        # function is flat there.
        slack = (
            16 * torch.finfo(lower.dtype).eps * (torch.maximum(lower.abs(), upper.abs()) + bounds.magnitude()) + JUMP
        )
        return Interval(lower - slack, upper + slack)

    def lines(self, bounds: Interval) -> Lines:
        """Lines below and above the function on the intervals."""
        if self.negative_slope is not None:
            return self._lines_of_a_kink(bounds, self.negative_slope)
        return self._lines_of_a_curve(bounds)

    def undecided(self, bounds: Interval) -> Tensor:
        """Where a tighter interval would change the lines, shape (N, *shape): on one side of 0, a ReLU is linear."""
        if self.negative_slope is not None:
            return (bounds.lower < 0) & (bounds.upper > 0)
        return bounds.lower < bounds.upper

    def _lines_of_a_kink(self, bounds: Interval, negative_slope: float) -> Lines:
        lower, upper = bounds
        kinked = self.undecided(bounds)
        width = torch.where(kinked, upper - lower, 1)
        one, slope = torch.ones_like(lower), torch.full_like(lower, negative_slope)
        straight = torch.where(lower >= 0, one, slope)
        # The upper line has the slope of the chord. Raise it until it bounds both ends, since the slope is rounded.
        chord = torch.where(kinked, (upper - negative_slope * lower) / width, straight)
        raised = torch.maximum((1 - chord) * upper, (negative_slope - chord) * lower)
        raised = raised + 4 * torch.finfo(lower.dtype).eps * bounds.magnitude()
        # The lower line through 0 that leaves the smaller area (Zhang et al. 2018, section 3.3).
        nearer = torch.where(upper > -lower, one, slope)
        zero = torch.zeros_like(lower)
        return Lines(torch.where(kinked, nearer, straight), zero, chord, torch.where(kinked, raised, zero))

    def _lines_of_a_curve(self, bounds: Interval) -> Lines:
        lower, upper = (bound.double() for bound in bounds)
        width, middle = upper - lower, (lower + upper) / 2
        values = [self.function(lower), self.function(upper), self.function(middle)]
        chord = torch.where(width > 1e-6, (values[1] - values[0]) / width.clamp_min(1e-6), self._slope(middle))
        slopes = [chord, *(self._slope(lower + share * width) for share in (0.0, 0.25, 0.5, 0.75, 1.0))]
        # Round the slopes first: the offsets have to fit the slopes that are returned.
        slopes = [slope.to(bounds.lower.dtype).double() for slope in slopes]
        highest = [torch.full_like(lower, -torch.inf) for _ in slopes]
        lowest = [torch.full_like(lower, torch.inf) for _ in slopes]
        for step in range(GRID + 1):
            point = lower + width * (step / GRID)
            value = self.function(point)
            for number, slope in enumerate(slopes):
                rest = value - slope * point
                highest[number] = torch.maximum(highest[number], rest)
                lowest[number] = torch.minimum(lowest[number], rest)
        magnitude = bounds.magnitude().double()
        between = self.curvature * (width / GRID).square() / 8
        unit = torch.finfo(bounds.lower.dtype).eps
        slack = between + 16 * unit * (magnitude + values[0].abs() + values[1].abs() + values[2].abs()) + JUMP

        def best(offsets: list[Tensor], *, above: bool) -> tuple[Tensor, Tensor]:
            at_middle = torch.stack([slope * middle + offset for slope, offset in zip(slopes, offsets, strict=True)])
            chosen = (at_middle.argmin(dim=0) if above else at_middle.argmax(dim=0))[None]
            slope, offset = (torch.stack(each).gather(0, chosen)[0] for each in (slopes, offsets))
            return slope.to(bounds.lower.dtype), (offset + (slack if above else -slack)).to(bounds.lower.dtype)

        return Lines(*best(lowest, above=False), *best(highest, above=True))

    def _slope(self, points: Tensor) -> Tensor:
        with torch.enable_grad():
            leaves = points.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.function(leaves).sum(), leaves)
        return slope


def relu(negative_slope: float = 0.0) -> Activation:
    """ReLU, or leaky ReLU of a slope from 0 to 1."""
    if negative_slope == 0:
        return Activation("relu", torch.relu, negative_slope=0.0)
    return Activation("leaky_relu", lambda z: functional.leaky_relu(z, negative_slope), negative_slope=negative_slope)


SMOOTH = {
    "sigmoid": Activation("sigmoid", torch.sigmoid, curvature=0.0963),
    "tanh": Activation("tanh", torch.tanh, curvature=0.77),
    "silu": Activation("silu", functional.silu, curvature=0.5, turns=(-1.2784645427610738,)),
    "gelu": Activation("gelu", functional.gelu, curvature=0.8, turns=(-0.7517915246935645,)),
    "softplus": Activation("softplus", functional.softplus, curvature=0.25),
    "elu": Activation("elu", functional.elu, curvature=1.0),
}
"""Smooth activations at their default parameters."""
