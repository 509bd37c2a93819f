"""The status of an image: the values of every metric's `.status`."""

from enum import IntEnum


class Status(IntEnum):
    """The status of one image; a result's `.status` tensor holds these numbers.

    Example:
        >>> Status(1).name.lower()
        'misclassified'
    """

    ATTACKED = 0
    """An adversarial example was found and verified: the distance is an upper bound."""
    MISCLASSIFIED = 1
    """The clean prediction is wrong: the distance is 0 by definition and there is no CLEVER score."""
    CENSORED = 2
    """No adversarial example was found within the budget, or an exact search hit its time limit: the distance is not
    known, and is infinite or NaN."""
    ESTIMATED = 3
    """A CLEVER score below the radius."""
    SATURATED = 4
    """A CLEVER score at the radius: read the estimate as "at least"."""
    UNAVAILABLE = 5
    """No number. There is no CLEVER score, because the sampled gradients are zero, not finite or not those of the
    function. Or there is no certificate or exact distance, because the model is not supported or costs too much."""
    CERTIFIED = 6
    """A radius was proved: the distance is a lower bound."""
    EXACT = 7
    """The true distance, up to the stated bracket."""
    ABSTAINED = 8
    """The vote of a smoothed classifier is too close to say which class wins: there is no radius."""
