"""Which images to look at first."""

from collections.abc import Mapping

MAX_WORST_IMAGES = 3
"""Images that a test names, at most."""


def worst_of(values: Mapping[int, float]) -> list[int]:
    """The images with the smallest values, the smallest first; equal ones by their numbers.

    Example:
        >>> worst_of({0: 0.5, 1: 0.1, 2: 0.5, 3: float("-inf"), 4: 0.6})
        [3, 1, 0]
    """
    return sorted(values, key=lambda image: (values[image], image))[:MAX_WORST_IMAGES]


def difference(ours: float, theirs: float) -> float:
    """`ours - theirs`, and 0 where both are infinite.

    Example:
        >>> difference(float("inf"), float("inf")), difference(1.0, float("inf"))
        (0.0, -inf)
    """
    return 0.0 if ours == theirs else ours - theirs
