"""Attacks: functions that look for a small adversarial perturbation, one file each, with one signature.

    attack(search, rows, *, steps, ...)

Each attack queries the `Search` for margins and gradients at points of its choice. The search keeps the best
adversarial point of all queries, so no point is lost, whatever an attack returns. `descend` in `schedule.py` runs the
attacks in order.
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
