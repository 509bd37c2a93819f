"""Intervals: a lower and an upper bound of every value of a layer."""

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """Bounds of the values of a layer, for each of N images: two tensors of shape (N, *shape)."""

    lower: Tensor
    upper: Tensor

    def magnitude(self) -> Tensor:
        """The largest absolute value within the bounds."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def intersect(self, other: "Interval") -> "Interval":
        """The intersection. If rounding leaves a gap between two intervals that touch, the result is the gap."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def rows(self, images: Tensor) -> "Interval":
        """The bounds of some of the images."""
        return Interval(self.lower[images], self.upper[images])
