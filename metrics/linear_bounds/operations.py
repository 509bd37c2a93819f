"""Affine operations of a network: forwards, backwards, and on absolute values.

Every operation maps batches of B tensors of shape `shape_in` to B tensors of shape `shape_out`, without the batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
Function = Callable[[Tensor], Tensor]


def unchanged(weights: Tensor) -> Tensor:
    """The weights themselves."""
    return weights


@dataclass(frozen=True, eq=False)
class Affine(ABC):
    """An operation W x + b on one tensor.

    Attributes:
        name: for messages.
        shape_in: shape of the operand, without the batch.
        shape_out: shape of the result, without the batch.
        bias: shape `shape_out`, or one that is broadcast to it; None for a linear operation.
        bias_magnitude: the sum of the absolute values of the terms of the bias.
        fan_in: the largest number of products in the sum for one value of the result; 0 if values are only moved.
        fan_out: the same for the transposed operation.
    """

    name: str
    shape_in: Shape
    shape_out: Shape
    bias: Tensor | None = None
    bias_magnitude: Tensor | None = None
    fan_in: int = 0
    fan_out: int = 0

    @abstractmethod
    def linear(self, batch: Tensor, weights: Function = unchanged) -> Tensor:
        """W x for a batch of operands, with the function `weights` applied to W first: |W| x, for example.

        `Rearranged` ignores `weights`: it has no tensor of weights, and none of its weights is negative.
        """

    @abstractmethod
    def transposed(self, batch: Tensor) -> Tensor:
        """W^T a for a batch of coefficients, of shape (B, *shape_out)."""

    def rows(self, positions: Tensor, signs: Tensor) -> Tensor:
        """Rows of W, each times its sign: the coefficients of some values of the result, shape (B, *shape_in)."""
        return self.transposed(one_hot(positions, signs, self.shape_out))

    def apply(self, batch: Tensor) -> Tensor:
        """W x + b."""
        result = self.linear(batch)
        return result if self.bias is None else result + self.bias

    def absolute(self, magnitudes: Tensor) -> Tensor:
        """|W| m + |b|: an upper bound of the sum of the absolute values of the terms of the result."""
        result = self.linear(magnitudes, torch.abs)
        return result if self.bias_magnitude is None else result + self.bias_magnitude


def one_hot(positions: Tensor, signs: Tensor, shape: Shape) -> Tensor:
    """Coefficients that pick one value of a layer each, times its sign: shape (B, *shape)."""
    picked = signs.new_zeros(len(positions), math.prod(shape))
    picked[torch.arange(len(positions), device=signs.device), positions] = signs
    return picked.view(-1, *shape)


@dataclass(frozen=True, eq=False)
class Linear(Affine):
    """A matrix product: weight of shape (out, in), on the last dimension."""

    weight: Tensor = field(kw_only=True)

    def linear(self, batch: Tensor, weights: Function = unchanged) -> Tensor:
        """The product with the transposed weight."""
        return functional.linear(batch, weights(self.weight))

    def transposed(self, batch: Tensor) -> Tensor:
        """The product with the weight."""
        return batch @ self.weight

    def rows(self, positions: Tensor, signs: Tensor) -> Tensor:
        """Rows of the weight, if the operand is a vector."""
        if len(self.shape_in) > 1:
            return super().rows(positions, signs)
        return self.weight[positions] * signs[:, None]


@dataclass(frozen=True, eq=False)
class Convolution(Affine):
    """A convolution in two dimensions: weight of shape (out, in / groups, height, width)."""

    weight: Tensor = field(kw_only=True)
    stride: Shape = (1, 1)
    padding: Shape = (0, 0)
    dilation: Shape = (1, 1)
    groups: int = 1

    def linear(self, batch: Tensor, weights: Function = unchanged) -> Tensor:
        """The convolution without its bias."""
        weight = weights(self.weight)
        return functional.conv2d(batch, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transposed(self, batch: Tensor) -> Tensor:
        """The transposed convolution, as large as the operand."""
        return functional.conv_transpose2d(
            batch,
            self.weight,
            None,
            self.stride,
            self.padding,
            output_padding=[
                wanted - ((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
                for wanted, size, stride, padding, dilation, kernel in zip(
                    self.shape_in[1:],
                    self.shape_out[1:],
                    self.stride,
                    self.padding,
                    self.dilation,
                    self.weight.shape[2:],
                    strict=True,
                )
            ],
            groups=self.groups,
            dilation=self.dilation,
        )

    def rows(self, positions: Tensor, signs: Tensor) -> Tensor:
        """Place the filters where they apply: a hundred times cheaper than a transposed convolution of one-hots."""
        if self.groups > 1:
            return super().rows(positions, signs)
        channels, high, wide = self.weight.shape[1:]
        height, width = self.shape_out[1:]
        filters, pixel = positions // (height * width), positions % (height * width)
        top, left = pixel // width * self.stride[0], pixel % width * self.stride[1]
        far = [(size - 1) * step for size, step in zip((height, width), self.stride, strict=True)]
        reach = [self.dilation[0] * (high - 1) + 1, self.dilation[1] * (wide - 1) + 1]
        # The padded operand: at least as large as the filters need.
        size = [max(f + r, s + p) for f, r, s, p in zip(far, reach, self.shape_in[1:], self.padding, strict=True)]
        canvas = signs.new_zeros(len(positions), channels, *size)
        device = positions.device
        canvas[
            torch.arange(len(positions), device=device)[:, None, None, None],
            torch.arange(channels, device=device)[:, None, None],
            (top[:, None] + self.dilation[0] * torch.arange(high, device=device))[:, None, :, None],
            (left[:, None] + self.dilation[1] * torch.arange(wide, device=device))[:, None, None, :],
        ] = self.weight[filters] * signs[:, None, None, None]
        (y, x), (rows, columns) = self.padding, self.shape_in[1:]
        return canvas[:, :, y : y + rows, x : x + columns].contiguous()


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """A product with constants, shape `shape_out` or broadcast to it, and a bias: batch normalisation, for example."""

    FAN_IN: ClassVar[int] = 4

    scale: Tensor = field(kw_only=True)

    def linear(self, batch: Tensor, weights: Function = unchanged) -> Tensor:
        """The product."""
        return batch * weights(self.scale)

    def transposed(self, batch: Tensor) -> Tensor:
        """The product."""
        return batch * self.scale


@dataclass(frozen=True, eq=False)
class Rearranged(Affine):
    """A torch function that only moves, sums or averages values: views, slices, padding, means, average pooling."""

    function: Function = field(kw_only=True)

    def linear(self, batch: Tensor, weights: Function = unchanged) -> Tensor:  # noqa: ARG002  # there is no tensor of weights
        """Apply the function."""
        return self.function(batch)

    def transposed(self, batch: Tensor) -> Tensor:
        """Its vector-Jacobian product, by autograd."""
        with torch.enable_grad():
            operand = batch.new_zeros(len(batch), *self.shape_in, requires_grad=True)
            (gradient,) = torch.autograd.grad(self.function(operand), operand, batch, create_graph=batch.requires_grad)
        return gradient


MAX_FOLDED_WEIGHT = 1e12


def folded(first: Affine, second: Scale) -> Affine | None:
    """Fold a scale into the convolution or linear layer before it, in float64 and rounded once; None if impossible."""
    if not isinstance(first, Linear | Convolution) or (isinstance(first, Linear) and len(first.shape_in) > 1):
        return None
    per_channel = second.scale.expand(second.shape_out).flatten(1) if len(second.shape_out) > 1 else None
    if per_channel is not None and not (per_channel == per_channel[:, :1]).all():
        return None
    scale = (second.scale.expand(second.shape_out) if per_channel is None else per_channel[:, 0]).double()
    # The model computes the product before it scales. That product must not overflow where the folded one does not.
    if first.weight.abs().amax() > MAX_FOLDED_WEIGHT or scale.abs().amin() < 1 / MAX_FOLDED_WEIGHT:
        return None
    weight = (first.weight.double() * scale.view(-1, *[1] * (first.weight.dim() - 1))).to(first.weight.dtype)
    wide = scale.view(-1, *[1] * (len(second.shape_out) - 1))
    bias, magnitude = (
        _sum(first.bias, second.bias, wide),
        _sum(first.bias_magnitude, second.bias_magnitude, wide.abs()),
    )
    return type(first)(
        **{
            **{name: getattr(first, name) for name in first.__dataclass_fields__},
            "name": f"{first.name}, {second.name}",
            "weight": weight,
            "bias": None if bias is None else bias.to(weight.dtype),
            "bias_magnitude": None if magnitude is None else magnitude.to(weight.dtype),
            # One rounding of the weight, and those of the product and the sum that the model makes.
            "fan_in": first.fan_in + 4,
            "fan_out": first.fan_out + 1,
        }
    )


def _sum(inner: Tensor | None, outer: Tensor | None, scale: Tensor) -> Tensor | None:
    terms = [term for term in (None if inner is None else inner.double() * scale, outer) if term is not None]
    return sum(terms[1:], terms[0].double()) if terms else None
