"""Upper bounds of rounding errors, in the bounds and in the network itself.

The model computes in floating point, and so do the bounds. Both are treated in the same way. The result of an operation
is that in real numbers plus an error. For a sequence of n operations, in any order, the error is at most `gamma(n)`
times the sum of the absolute values of the terms (Higham 2002, "Accuracy and Stability of Numerical Algorithms",
section 3.1). The errors of the model are a perturbation of each layer. The errors of the bounds are subtracted from the
bounds. The sums of absolute values come from the intervals of the layer.

So a certificate holds for the network as it is computed in the precision of the images, not only in real numbers. It
does not hold for arithmetic that is less precise than its type: TF32, and convolutions by Winograd's algorithm or by
Fourier transforms. Underflow is ignored, except where squares are taken: it loses less than 1e-38 in float32.
"""

import torch
from torch import Tensor

EXTRA = 4
"""Roundings in addition to those of a sum: halving an interval, a product with a slope, the last addition."""


def gamma(count: int, dtype: torch.dtype) -> float:
    """An upper bound of the relative error of a sum of products with `count` roundings, slightly enlarged; 0 for none.

    Example:
        >>> gamma(100, torch.float32) / torch.finfo(torch.float32).eps
        52.52...
    """
    unit = torch.finfo(dtype).eps / 2
    return 1.01 * (count + EXTRA) * unit if count else 0.0


def row_sums(products: Tensor) -> Tensor:
    """Sum over all but the first two dimensions, in float64: (n, R, *shape) to (n, R).

    The last dimension of an image is summed in the type of `products`. This takes a fifth of the time, and loses
    little, because the dimension is short.
    """
    if products.dim() > 3:
        products = products.sum(dim=-1)
    return products.flatten(2).sum(dim=2, dtype=torch.float64)


def weighted_norms(coefficients: Tensor, magnitudes: Tensor) -> Tensor:
    """An upper bound of the sum of |coefficient| * magnitude in each row, (n, R), in float64.

    Args:
        coefficients: shape (n, R, C, ...).
        magnitudes: the largest magnitude in each channel, 0 or more, shape (n, C).
    """
    norms = coefficients.abs()
    if norms.dim() > 3:  # faster than a vector norm
        norms = norms.flatten(3).sum(dim=3)
    return 1.01 * torch.einsum("nrc,nc->nr", norms.double(), magnitudes.double())


def channel_maxima(values: Tensor) -> Tensor:
    """The largest value of each channel, (n, C, ...) to (n, C)."""
    return values.flatten(2).amax(dim=2) if values.dim() > 2 else values
