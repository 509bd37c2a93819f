"""What rounding may do to a bound, and to the network itself.

The model computes in floating point, and so do the bounds. Both are accounted for in the same way: every operation's
result is what it would be in real numbers plus an error of at most `gamma(n)` times the sum of the absolute values of
its terms, for n operations one after the other in any order (Higham 2002, "Accuracy and Stability of Numerical
Algorithms", section 3.1). The errors of the model are treated as a perturbation of each layer, and those of the bounds
are subtracted from them; the sums of absolute values come from the intervals of the layer. So a certificate holds for
the network as it is computed in the precision of the images, not only for the network in real numbers. That excludes
arithmetic which is coarser than its type says: TF32, and convolutions by Winograd's algorithm or by Fourier transforms.
Underflow is left out, but where squares are taken: what it loses is below 1e-38 in float32.
"""

import torch
from torch import Tensor

EXTRA = 4
"""Operations beside those of a sum: halving an interval, a product by a slope, the last addition."""


def gamma(count: int, dtype: torch.dtype) -> float:
    """The largest relative error of a sum of products with `count` roundings, and some to spare.

    Example:
        >>> gamma(100, torch.float32) / torch.finfo(torch.float32).eps
        52.52...
    """
    unit = torch.finfo(dtype).eps / 2
    return 1.01 * (count + EXTRA) * unit if count else 0.0


def row_sums(products: Tensor) -> Tensor:
    """The sum of all but the first two dimensions, in float64: (n, R, *shape) to (n, R).

    The last dimension of an image is summed as it is, which takes a fifth of the time, and is short.
    """
    if products.dim() > 3:
        products = products.sum(dim=-1)
    return products.flatten(2).sum(dim=2, dtype=torch.float64)


def weighted_norms(coefficients: Tensor, magnitudes: Tensor) -> Tensor:
    """An upper bound of the sum of |coefficient| * magnitude in each row, (n, R), in float64.

    Args:
        coefficients: shape (n, R, C, ...).
        magnitudes: 0 or more, shape (n, C): the largest one of a channel stands for all of it.
    """
    norms = coefficients.abs()
    if norms.dim() > 3:  # faster than a vector norm
        norms = norms.flatten(3).sum(dim=3)
    return 1.01 * torch.einsum("nrc,nc->nr", norms.double(), magnitudes.double())


def channel_maxima(values: Tensor) -> Tensor:
    """The largest value of each channel, (n, C, ...) to (n, C)."""
    return values.flatten(2).amax(dim=2) if values.dim() > 2 else values
