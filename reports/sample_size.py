"""How many images would decide what the images of a run have left open. Uses no scipy, which takes a second to load."""

import math
from statistics import NormalDist

from robustness_tests.harness.measured import Figures

POWER = 0.8
"""Probability that so many images decide, if the effect is the measured one."""

NORMAL = NormalDist()


def images_for_share(value: float, threshold: float, confidence: float) -> int | None:
    """The number of images with which the interval of a share leaves out a threshold.

    From the normal approximation (Fleiss, Levin and Paik 2003, section 2.4). The exact interval of the gate is a little
    wider, so the true power is a little smaller.

    Args:
        value: the measured share.
        threshold: the share that it is compared with.
        confidence: of the two-sided interval.

    Returns:
        The number; None if value and threshold are equal, which no number decides.

    Example:
        >>> images_for_share(0.9, 0.95, confidence=0.95)
        185
    """
    if value == threshold:
        return None
    level, power = NORMAL.inv_cdf(0.5 + confidence / 2), NORMAL.inv_cdf(POWER)
    spread = level * math.sqrt(threshold * (1 - threshold)) + power * math.sqrt(value * (1 - value))
    return math.ceil((spread / (value - threshold)) ** 2)


def images_for_comparison(images: int, p_value: float, largest: float) -> int | None:
    """The number of images with which a one-sided test gives a p-value of at most `largest`.

    The normal deviate of a p-value grows with the square root of the number of images, as for Wilcoxon's test.

    Args:
        images: of the run.
        p_value: of the test on these images.
        largest: the p-value that decides.

    Returns:
        The number; None if the measured effect is none, or in the other direction, and if `largest` is 0 or 1.

    Example:
        >>> images_for_comparison(100, p_value=0.2, largest=0.05)
        873
    """
    if not (0 < p_value < 0.5 and 0 < largest < 1):
        return None
    needed = -NORMAL.inv_cdf(largest) + NORMAL.inv_cdf(POWER)
    return math.ceil(images * (needed / -NORMAL.inv_cdf(p_value)) ** 2)


def is_open(figures: Figures) -> bool:
    """Whether the images of a run leave a requirement open.

    A threshold is open if the interval of the value contains it. A comparison is open if its p-value shows neither that
    the candidate is better nor that it is worse.
    """
    if figures.threshold is None:
        return False
    if figures.p_value is not None:
        return figures.threshold < figures.p_value < 1 - figures.threshold
    if figures.lower is None or figures.upper is None:
        return False
    return figures.lower <= figures.threshold <= figures.upper


def images_to_decide(figures: Figures, confidence: float) -> int | None:
    """About how many images would decide a requirement that the images of the run leave open.

    Returns:
        The number; None if nothing is open, or if the measured values give no number.
    """
    if not is_open(figures) or figures.threshold is None or figures.value is None:
        return None
    if figures.p_value is not None:
        return images_for_comparison(figures.images or 0, figures.p_value, figures.threshold)
    return None if figures.unit == "ratio" else images_for_share(figures.value, figures.threshold, confidence)
