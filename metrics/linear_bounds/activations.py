"""Elementwise activations: two lines that an activation stays between on an interval.

ReLU and leaky ReLU have theirs in closed form. For smooth functions any slope can be made a bound: the extreme value of
f(z) - slope * z is looked for on a grid, and what may happen between its points is bounded by the curvature of f.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metrics.linear_bounds.interval import Interval

GRID = 48
"""Points of an interval at which a smooth activation is looked at: the bounds give away 1/20,000 of its width."""


JUMP = 4e-9
"""Softplus is log(1 + exp(z)) up to 20 and z above: it jumps by 2e-9 there."""


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
        negative_slope: of a ReLU (0) or leaky ReLU; none for a smooth function.
        curvature: the largest |second derivative| of a smooth function.
        turns: where the derivative is 0, if anywhere: between these points the function is monotonic.
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
        # The function itself is rounded, here and in the model; near a turn it is flat.
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
        # The chord; then what the upper line has to be raised by, at both ends, for the slope as it came out.
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
        # As they will be used: the offsets have to fit the rounded slopes.
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
