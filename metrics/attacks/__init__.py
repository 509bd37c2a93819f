"""Attacks: functions that look for a small adversarial perturbation, one file each, with one signature.

    attack(search, rows, *, steps, ...)

Each asks the `Search` for margins and gradients of points of its choice. The search keeps the best adversarial point
of any query, so an attack can lose nothing, whatever it returns. `descend` in `schedule.py` makes one after the other.
"""

from metrics.attacks.effort import EFFORTS, Effort
from metrics.attacks.iterated_pgd import iterated_pgd
from metrics.attacks.line_search import line_search
from metrics.attacks.schedule import descend
from metrics.attacks.search import Attack, Search, SearchPath, nearest_classes

__all__ = [
    "EFFORTS",
    "Attack",
    "Effort",
    "Search",
    "SearchPath",
    "descend",
    "iterated_pgd",
    "line_search",
    "nearest_classes",
]
