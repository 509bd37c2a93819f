"""The check of a named choice, with the message that users of every metric see."""

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
