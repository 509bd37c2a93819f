"""What became of an image: the vocabulary of every metric's `.status`."""

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
    """No adversarial example was found within the budget: the distance is infinite, that is, not known."""
    ESTIMATED = 3
    """A CLEVER score below the radius."""
    SATURATED = 4
    """A CLEVER score at the radius: the estimate is "at least", not a value."""
    UNAVAILABLE = 5
    """No number: no CLEVER score, since the sampled gradients are zero, not finite or not those of the function; or no
    certificate, since there are no bounds for the model or they are too costly."""
    CERTIFIED = 6
    """A radius was proved: the distance is a lower bound."""
    EXACT = 7
    """The true distance, up to the stated bracket."""
    ABSTAINED = 8
    """The vote of a smoothed classifier is too close to say which class wins: there is no radius."""
