"""Exact intervals and comparisons for distances and scores, without resampling or assumptions on the distribution.

Values may be infinite: a censored distance is larger than any measured one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    lower: float
    upper: float


def share(successes: int, total: int, confidence: float = 0.95) -> Estimate:
    """Return a share with its interval by Clopper & Pearson (1934), whose coverage is at least `confidence`.

    Raises:
        ValueError: unless 0 <= successes <= total and total >= 1.

    Example:
        >>> share(95, 100)
        Estimate(value=0.95, lower=0.887..., upper=0.983...)
    """
    _check_confidence(confidence)
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"got {successes} of {total}, expected 0 <= successes <= total and total >= 1")
    interval = scipy.stats.binomtest(successes, total).proportion_ci(confidence, method="exact")
    return Estimate(successes / total, float(interval.low), float(interval.high))


def mean_share(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """Return the mean of shares in [0, 1], one for each image, with an interval of coverage at least `confidence`.

    The interval is Clopper & Pearson's, with the sum of the shares in place of the number of successes. Among numbers
    in [0, 1] with a given mean, zeros and ones vary most, so an interval for them is wide enough for all others
    (Hoeffding 1963, section 2).

    Raises:
        ValueError: for no values, NaN, or values outside [0, 1].

    Example:
        >>> mean_share([1.0, 0.5, 1.0, 0.9]) == mean_share([0.5, 1.0, 0.9, 1.0])
        True
        >>> mean_share([1.0] * 95 + [0.0] * 5), share(95, 100)  # of zeros and ones, the same
        (Estimate(value=0.95, lower=0.887..., upper=0.983...), Estimate(value=0.95, lower=0.887..., upper=0.983...))
    """
    _check_confidence(confidence)
    shares = _numbers(values)
    if shares.min() < 0 or shares.max() > 1:
        raise ValueError(f"got values from {shares.min():g} to {shares.max():g}, expected shares in [0, 1]")
    count, total = len(shares), float(np.sort(shares).sum())
    tail = (1 - confidence) / 2
    lower = scipy.stats.beta.ppf(tail, total, count - total + 1) if total > 0 else 0.0
    upper = scipy.stats.beta.ppf(1 - tail, total + 1, count - total) if total < count else 1.0
    value = total / count
    # The quantiles are inexact where the distribution is nearly a single point.
    return Estimate(value, min(value, float(lower)), max(value, float(upper)))


def mean_difference(
    ours: Sequence[float] | NDArray[np.float64],
    theirs: Sequence[float] | NDArray[np.float64],
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean of the differences ours - theirs of shares in [0, 1], image by image, with its interval.

    Gains and losses each get the interval of `mean_share` at half of the error, and their ends are combined. By
    Bonferroni, the coverage is at least `confidence`, even where nothing has changed. Booleans count as shares.

    Raises:
        ValueError: for sequences of different lengths, no values, NaN, or values outside [0, 1].

    Example:
        >>> mean_difference([1.0] * 96 + [0.0] * 4, [1.0] * 99 + [0.0])
        Estimate(value=-0.03, lower=-0.09..., upper=0.03...)
    """
    _check_confidence(confidence)
    ours, theirs = _numbers(ours), _numbers(theirs)
    if len(ours) != len(theirs):
        raise ValueError(f"got {len(ours)} and {len(theirs)} values, expected as many of both")
    for values in (ours, theirs):
        mean_share(values, confidence)
    gain, loss = (mean_share(np.clip(change, 0, 1), (1 + confidence) / 2) for change in (ours - theirs, theirs - ours))
    return Estimate(gain.value - loss.value, gain.lower - loss.upper, gain.upper - loss.lower)


def median(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Estimate:
    """The median with its interval between two order statistics (exact, from the sign test).

    Too few values for the confidence give an infinite interval.

    Raises:
        ValueError: for no values or NaN.

    Example:
        >>> median([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, float("inf")])
        Estimate(value=5.0, lower=2.0, upper=8.0)
    """
    _check_confidence(confidence)
    ordered = np.sort(_numbers(values))
    middle = _middle(ordered)
    # The k-th smallest and k-th largest enclose the median unless fewer than k values lie on one side of it.
    rank = int(scipy.stats.binom.ppf((1 - confidence) / 2, len(ordered), 0.5))
    if rank < 1:
        return Estimate(middle, -np.inf, np.inf)
    return Estimate(middle, float(ordered[rank - 1]), float(ordered[-rank]))


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not len(numbers) or np.isnan(numbers).any():
        bad = int(np.isnan(numbers).sum())
        raise ValueError(f"got values of shape {numbers.shape}, {bad} of them NaN, expected (N,) numbers with N >= 1")
    return numbers


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"got confidence={confidence}, expected a number between 0 and 1")


def _middle(ordered: NDArray[np.float64]) -> float:
    lower, upper = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    if lower == upper:
        return lower
    # Between opposite infinities the middle is 0, as between any opposite numbers.
    return 0.0 if lower == -upper else (lower + upper) / 2


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        pairs: number of images.
        candidate: median of the candidate.
        reference: median of the reference.
        difference: median of candidate - reference, image by image.
        p_value: of the one-sided Wilcoxon signed-rank test; small if the candidate is better.
    """

    pairs: int
    candidate: float
    reference: float
    difference: Estimate
    p_value: float


def compare(candidate: Sequence[float], reference: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Compare values of two models on the same images, pair by pair; larger is better.

    Two infinite values are a tie. The test is Wilcoxon's (1945) on the differences, without differences of zero.

    Raises:
        ValueError: for sequences of different lengths, empty ones, or NaN.

    Example:
        >>> better = compare([2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        >>> better.difference.value, round(better.p_value, 4)
        (3.5, 0.0156)
    """
    _check_confidence(confidence)
    ours, theirs = _numbers(candidate), _numbers(reference)
    if len(ours) != len(theirs):
        raise ValueError(f"got {len(ours)} and {len(theirs)} values, expected as many of both")
    with np.errstate(invalid="ignore"):
        differences = np.where(np.isinf(ours) & np.isinf(theirs), 0.0, ours - theirs)
    return Comparison(
        pairs=len(ours),
        candidate=median(ours, confidence).value,
        reference=median(theirs, confidence).value,
        difference=median(differences, confidence),
        p_value=_wilcoxon(differences),
    )


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    if not differences.any():
        return 1.0
    # Only ranks count, so an infinite difference is replaced by one beyond the largest finite difference.
    finite = np.abs(differences[np.isfinite(differences)])
    beyond = 2 * finite.max(initial=0.0) + 1
    ranked = np.clip(differences, -beyond, beyond)
    return float(scipy.stats.wilcoxon(ranked, alternative="greater").pvalue)
