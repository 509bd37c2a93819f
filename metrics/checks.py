"""Checks of arguments, with the messages that users of every metric see."""

import math
import operator
from collections.abc import Iterable


def check_choice(what: str, got: object, known: Iterable[str]) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: with the known names.

    Example:
        >>> check_choice("norm", "l7", ["linf", "l2"])
        Traceback (most recent call last):
        ValueError: got norm='l7', expected one of 'linf', 'l2'
    """
    known = list(known)
    if got not in known:
        raise ValueError(f"got {what}={got!r}, expected one of {', '.join(map(repr, known))}")


def check_count(what: str, got: object, least: int) -> int:
    """A whole number that is large enough.

    Raises:
        ValueError: for anything else.

    Example:
        >>> check_count("blocks", 2.5, 3)
        Traceback (most recent call last):
        ValueError: got blocks=2.5, expected a whole number, 3 or more
    """
    try:
        number = operator.index(got)  # type: ignore[arg-type]  # that is what is tried
    except TypeError:
        number = least - 1
    if isinstance(got, bool) or number < least:
        raise ValueError(f"got {what}={got!r}, expected a whole number, {least} or more")
    return number


def check_number(what: str, got: object, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """A finite number above a bound, or not below one.

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
