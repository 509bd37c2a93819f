"""Attacks: functions that look for a small adversarial perturbation, one file each, with one signature.

    attack(search, rows, *, steps, ...)

Each asks the `Search` for margins and gradients of points of its choice. The search keeps the best adversarial point of
any query, so an attack can lose nothing, whatever it returns.
"""

from metrics.attacks.boundary_descent import EXPLORE, REFINE, boundary_descent
from metrics.attacks.iterated_pgd import iterated_pgd
from metrics.attacks.line_search import line_search
from metrics.attacks.linearised import linearised
from metrics.attacks.random_noise import random_noise
from metrics.attacks.restarts import noisy_starts, random_starts
from metrics.attacks.search import Attack, Search, SearchPath, nearest_classes
from metrics.attacks.shortlist import Shortlist

__all__ = [
    "EXPLORE",
    "REFINE",
    "Attack",
    "Search",
    "SearchPath",
    "Shortlist",
    "boundary_descent",
    "iterated_pgd",
    "line_search",
    "linearised",
    "nearest_classes",
    "noisy_starts",
    "random_noise",
    "random_starts",
]
