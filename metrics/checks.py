"""Checks of arguments, with the error messages that all metrics share."""

import math
import operator
from collections.abc import Iterable


def check_choice(what: str, got: object, known: Iterable[str]) -> None:
    """Check that `got` is one of the known names.

    Raises:
        ValueError: if it is not. The message lists the known names.

    Example:
        >>> check_choice("norm", "l7", ["linf", "l2"])
        Traceback (most recent call last):
        ValueError: got norm='l7', expected one of 'linf', 'l2'
    """
    known = list(known)
    if got not in known:
        raise ValueError(f"got {what}={got!r}, expected one of {', '.join(map(repr, known))}")


def check_count(what: str, got: object, least: int) -> int:
    """Return `got` as an int if it is a whole number and at least `least`.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_count("blocks", 2.5, 3)
        Traceback (most recent call last):
        ValueError: got blocks=2.5, expected a whole number, 3 or more
    """
    try:
        number = operator.index(got)  # type: ignore[arg-type]  # the call tests the type
    except TypeError:
        number = least - 1
    if isinstance(got, bool) or number < least:
        raise ValueError(f"got {what}={got!r}, expected a whole number, {least} or more")
    return number


def check_number(what: str, got: object, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """Return `got` as a float if it is a finite number, above `above` and at least `least`.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_number("radius", 0, above=0)
        Traceback (most recent call last):
        ValueError: got radius=0, expected a finite number above 0
    """
    number = float(got) if isinstance(got, int | float) and not isinstance(got, bool) else math.nan
    if not (above < number < math.inf and number >= least):
        bound = f"{least:g} or more" if least > -math.inf else f"above {above:g}"
        raise ValueError(f"got {what}={got!r}, expected a finite number {bound}")
    return number
