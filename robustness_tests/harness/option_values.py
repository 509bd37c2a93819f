"""Values of options: text in, checked values out. Imports no torch."""

import math
import re
import signal
from collections.abc import Sequence

from robustness_tests.harness.gpus import visible_gpus
from robustness_tests.harness.run import Shard
from robustness_tests.subjects.catalog import NORMS, closest


def choice(word: str, known: Sequence[str]) -> str:
    """One of the known words."""
    if word not in known:
        raise ValueError(f"got {word!r}, {closest(word, known)}")
    return word


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
        raise ValueError(f"got {text!r}, expected a whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) or not int(text):
        raise ValueError(f"got {text!r}, expected a whole number, 1 or more")
    return int(text)


def shard(text: str) -> Shard | None:
    """The part NUMBER/COUNT of a run; None for an empty text.

    Example:
        >>> shard("3/16")
        Shard(number=3, count=16)
    """
    if not text.strip():
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    found = Shard(int(match[1]), int(match[2])) if match else None
    if found is None or not 1 <= found.number <= found.count:
        raise ValueError(f"got {text!r}, expected NUMBER/COUNT: 3/16 for the third of sixteen, from 1/16 to 16/16")
    return found


def seconds(text: str) -> float | None:
    """A positive number of seconds; None for an empty text."""
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"got {text!r}, expected a positive number of seconds")
    if not hasattr(signal, "setitimer"):
        raise ValueError(f"got {text!r}, expected none on this system, which has no timers that interrupt Python")
    return number


def limit(text: str) -> int | None:
    """The largest number of images that `auto` or `auto:LIMIT` allows, 0 where it states none; None for a number."""
    word, colon, number = text.strip().partition(":")
    try:
        if word == "auto":
            return positive(number) if colon else 0
        positive(text)
    except ValueError:
        raise ValueError(f"got {text!r}, expected a whole number, 1 or more, auto or auto:LIMIT") from None
    return None


def norms(text: str) -> tuple[str, ...]:
    """Norms, separated by commas; each once."""
    found = [norm.strip() for norm in text.split(",")]
    for norm in found:
        if norm not in NORMS:
            raise ValueError(f"got {norm!r}, {closest(norm, NORMS)}")
    return tuple(dict.fromkeys(found))


def radii(text: str) -> dict[str, float]:
    """Numbers by norm, from a text such as linf=0.05,l2=1."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        norm, _, value = part.partition("=")
        if norm not in NORMS:
            raise ValueError(f"got {part!r}, {closest(norm, NORMS)}: linf=0.05,l2=1, for example")
        try:
            found[norm] = float(value)
        except ValueError:
            found[norm] = math.nan
        if not 0 < found[norm] < math.inf:
            raise ValueError(f"got {part!r}, expected {norm}= and a positive number")
    return found


def device(text: str) -> str:
    """A device that there is."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise ValueError(f"got {text!r}, expected auto, cpu, cuda or cuda:N")
    gpus = visible_gpus() if text.startswith("cuda") else ()
    number = int(text.partition(":")[2] or 0)
    if text.startswith("cuda") and number >= len(gpus):
        raise ValueError(f"got {text!r}, but {len(gpus)} GPUs are visible: expected cpu, auto, or a smaller number")
    return text
