"""P-values for several comparisons at once."""

from collections.abc import Sequence
from itertools import accumulate


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm (1979), *A simple sequentially rejective multiple test procedure*.

    The comparisons whose adjusted p-value is at most alpha all hold, with a probability of error of alpha for all of
    them together, however they depend on each other.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    scaled = [min(1.0, (len(order) - rank) * p_values[row]) for rank, row in enumerate(order)]
    adjusted = dict(zip(order, accumulate(scaled, max), strict=True))
    return [adjusted[row] for row in range(len(order))]
