"""Intervals and relaxations of the operations on a ball.

A relaxation turns a linear function of a result into a lower bound that is linear in the operands. It takes
coefficients of the result, shape (n, R, *shape), and returns coefficients of the operands and a constant, shape (n, R).
Rounding included, coefficients . result >= sum of coefficients . operand + constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from metrics.linear_bounds.activations import Activation, Lines
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Affine, Shape
from metrics.linear_bounds.program import Concatenation, MaxPool, Operation, Total
from metrics.linear_bounds.rounding import channel_maxima, gamma, row_sums, weighted_norms

Constant = Tensor | None


class Relaxation(Protocol):
    """An operation on a ball around each of N images."""

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:
        """Turn coefficients of the result into those of the operands and a constant, for n images and R rows each."""


def interval_of(operation: Operation, operands: Sequence[Interval]) -> Interval:
    """The interval of a result, from those of the operands."""
    if isinstance(operation, Activation):
        return operation.interval(operands[0])
    if isinstance(operation, Affine):
        return _affine_interval(operation, operands[0])
    if isinstance(operation, Total):
        return _total_interval(operation, operands)
    return Interval(
        operation.apply(*(one.lower for one in operands)), operation.apply(*(one.upper for one in operands))
    )


def relaxation_of(operation: Operation, operands: Sequence[Interval]) -> Relaxation:
    """The relaxation of an operation whose operands stay within intervals."""
    if isinstance(operation, Activation):
        return RelaxedActivation(operation.lines(operands[0]), operands[0].magnitude())
    if isinstance(operation, Affine):
        return RelaxedAffine(operation, _magnitudes(operation, operands[0]))
    if isinstance(operation, Total):
        total = sum((one.magnitude() for one in operands[1:]), operands[0].magnitude())
        return RelaxedTotal(operation, channel_maxima(total))
    if isinstance(operation, Concatenation):
        sizes = [one.lower.shape[operation.dim + 1] for one in operands]
        return RelaxedConcatenation(sizes, operation.dim)
    return relaxed_max_pool(operation, operands[0])


def _affine_interval(operation: Affine, operand: Interval) -> Interval:
    lower, upper = operand
    if not operation.fan_in:
        return Interval(operation.linear(lower), operation.linear(upper))
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    middle, reach = operation.apply(center), operation.linear(radius, torch.abs)
    slack = rounding_of(operation, operand)
    return Interval(middle - reach - slack, middle + reach + slack)


def rounding_of(operation: Affine, operand: Interval) -> Tensor:
    """An upper bound of three rounding errors: of the model, of the middle of the interval, and of its width."""
    return 3 * gamma(operation.fan_in, operand.lower.dtype) * operation.absolute(operand.magnitude())


def _total_interval(operation: Total, operands: Sequence[Interval]) -> Interval:
    turned = [
        one if sign > 0 else Interval(-one.upper, -one.lower)
        for sign, one in zip(operation.signs, operands, strict=True)
    ]
    lower, upper = (sum(ends[1:], ends[0]) for ends in zip(*turned, strict=True))
    slack = gamma(len(operands), lower.dtype) * sum((one.magnitude() for one in operands[1:]), operands[0].magnitude())
    return Interval(lower - slack, upper + slack)


def _magnitudes(operation: Affine, operand: Interval) -> Tensor | None:
    return channel_maxima(operation.absolute(operand.magnitude())) if operation.fan_in else None


def _flat(coefficients: Tensor) -> Tensor:
    return coefficients.flatten(0, 1)


@dataclass(frozen=True, eq=False)
class RelaxedAffine:
    """W x + b: exact, but for rounding. `magnitudes`: (N, C), the largest sum of absolute values in each channel."""

    operation: Affine
    magnitudes: Tensor | None

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:
        """See `Relaxation`."""
        operation = self.operation
        operands = operation.transposed(_flat(coefficients)).unflatten(0, coefficients.shape[:2])
        return [operands], self.constant(coefficients, images)

    def constant(self, coefficients: Tensor, images: Tensor) -> Constant:
        """The bias term, minus the rounding errors here, in the model, and in the coefficients of the operand."""
        operation, constant = self.operation, None
        if operation.bias is not None:
            constant = row_sums(coefficients * operation.bias)
        if self.magnitudes is not None:
            unit = coefficients.dtype
            # `row_sums` sums the last dimension of the products with the bias in this type.
            roundings = (
                gamma(operation.fan_in, unit)
                + gamma(operation.fan_out, unit)
                + gamma(coefficients.shape[-1] if coefficients.dim() > 3 else 1, unit)
            )
            slack = roundings * weighted_norms(coefficients, self.magnitudes[images])
            constant = -slack if constant is None else constant - slack
        return constant

    def rows(self, positions: Tensor, signs: Tensor, images: Tensor) -> tuple[Tensor, Constant]:
        """Coefficients of the operand for some values of the result, each times its sign; positions are (n, R)."""
        operation = self.operation
        operands = operation.rows(positions.flatten(), signs.flatten()).unflatten(0, positions.shape)
        constant = (
            0
            if operation.bias is None
            else operation.bias.expand(operation.shape_out).flatten()[positions].double() * signs
        )
        if self.magnitudes is not None:
            channel = positions // (torch.Size(operation.shape_out).numel() // operation.shape_out[0])
            slack = 2 * gamma(operation.fan_in, signs.dtype) * self.magnitudes[images].gather(1, channel).double()
            constant = constant - slack
        return operands, constant if isinstance(constant, Tensor) else None


@dataclass(frozen=True, eq=False)
class RelaxedActivation:
    """Between two lines: a positive coefficient takes the lower one, a negative one the upper."""

    lines: Lines
    operand: Tensor

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:
        """See `Relaxation`."""
        lines = Lines(*(line[images][:, None] for line in self.lines))
        positive = coefficients.clamp_min(0)
        operands = coefficients * lines.upper_slope
        operands.addcmul_(positive, lines.lower_slope - lines.upper_slope)
        constant = row_sums(coefficients * lines.upper_offset)
        constant += row_sums(positive.mul_(lines.lower_offset - lines.upper_offset))
        unit = gamma(coefficients.shape[-1] if coefficients.dim() > 3 else 1, coefficients.dtype)
        return [operands], constant - 2 * unit * weighted_norms(coefficients, self._magnitudes(images))

    def _magnitudes(self, images: Tensor) -> Tensor:
        lines = [line[images] for line in self.lines]
        slopes, offsets = (torch.maximum(lines[a].abs(), lines[a + 2].abs()) for a in (0, 1))
        return channel_maxima(slopes * self.operand[images] + offsets)


@dataclass(frozen=True, eq=False)
class RelaxedTotal:
    """A sum of several operands. `magnitudes`: largest sum of their absolute values in each channel, (N, C)."""

    operation: Total
    magnitudes: Tensor

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:
        """See `Relaxation`."""
        slack = gamma(len(self.operation.signs), coefficients.dtype) * weighted_norms(
            coefficients, self.magnitudes[images]
        )
        return [coefficients if sign > 0 else -coefficients for sign in self.operation.signs], -slack


@dataclass(frozen=True, eq=False)
class RelaxedConcatenation:
    """Operands one after the other, with their sizes along the dimension `dim` of an image."""

    sizes: list[int]
    dim: int

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:  # noqa: ARG002  # one signature
        """See `Relaxation`."""
        return list(coefficients.split(self.sizes, dim=self.dim + 2)), None


@dataclass(frozen=True, eq=False)
class RelaxedMaxPool:
    """The maximum of a window is at least the value with the largest lower bound, and at most the largest upper bound.

    If one value is the largest of its window for every image of the ball, it is the result.

    Attributes:
        best: position in its channel of the value with the largest lower bound, (N, *shape).
        decided: 1 where this value is the result for every image of the ball, 0 elsewhere.
        upper: the largest upper bound.
        magnitudes: the largest absolute value of each channel of the operand, (N, C).
        shape_in: shape of the operand.
        windows: the largest number of windows that contain the same value of the operand.
    """

    best: Tensor
    decided: Tensor
    upper: Tensor
    magnitudes: Tensor
    shape_in: Shape
    windows: int

    def backward(self, coefficients: Tensor, images: Tensor) -> tuple[list[Tensor], Constant]:
        """See `Relaxation`."""
        decided, best, upper = (each[images][:, None] for each in (self.decided, self.best, self.upper))
        kept = torch.where(coefficients > 0, coefficients, coefficients * decided)
        operand = coefficients.new_zeros(*coefficients.shape[:2], self.shape_in[0], self.shape_in[1] * self.shape_in[2])
        operand.scatter_add_(3, best.flatten(3).expand(-1, coefficients.shape[1], -1, -1), kept.flatten(3))
        constant = row_sums((coefficients - kept) * upper)
        unit = gamma(coefficients.shape[-1] + self.windows, coefficients.dtype)
        slack = unit * weighted_norms(coefficients, self.magnitudes[images])
        return [operand.unflatten(3, self.shape_in[1:])], constant - slack


def relaxed_max_pool(operation: MaxPool, operand: Interval) -> RelaxedMaxPool:
    """The relaxation of a max pooling, given the interval of its operand."""
    lower, best = operation.with_indices(operand.lower)
    upper = operation.apply(operand.upper)
    # The largest upper bound in the window, without the best value. A value may be the best of one window but not of an
    # overlapping one, so the windows are copied out one by one.
    windows, positions = _windows(operation, operand.upper)
    others = windows.masked_fill(positions == best[:, :, None], -torch.inf).amax(dim=2)
    decided = (lower >= others).to(lower.dtype)
    magnitudes, shape_in = channel_maxima(operand.magnitude()), tuple(operand.lower.shape[1:])
    return RelaxedMaxPool(best, decided, upper, magnitudes, shape_in, math.prod(operation.kernel))


def _windows(operation: MaxPool, values: Tensor) -> tuple[Tensor, Tensor]:
    """The values of every window and their positions in the channel: (N, C, window, *out)."""
    height, width = values.shape[2:]
    rows, columns = operation.apply(values[:1, :1]).shape[2:]
    positions = torch.arange(height * width, device=values.device, dtype=values.dtype).view(1, 1, height, width) + 1

    def laid_out(images: Tensor, filling: float) -> Tensor:
        reach = [
            max(0, (size - 1) * step + far * (kernel - 1) + 1 - there - pad)
            for size, step, far, kernel, there, pad in zip(
                (rows, columns),
                operation.stride,
                operation.dilation,
                operation.kernel,
                (height, width),
                operation.padding,
                strict=True,
            )
        ]
        padded = functional.pad(images, (operation.padding[1], reach[1], operation.padding[0], reach[0]), value=filling)
        cut = functional.unfold(padded, operation.kernel, operation.dilation, 0, operation.stride)
        high = (padded.shape[2] - operation.dilation[0] * (operation.kernel[0] - 1) - 1) // operation.stride[0] + 1
        cut = cut.unflatten(2, (high, -1))[:, :, :rows, :columns]
        return cut.unflatten(1, (images.shape[1], -1))

    smallest = torch.finfo(values.dtype).min
    return laid_out(values, smallest), laid_out(positions, 0).long() - 1
