"""Attacks: functions that look for a small adversarial perturbation, one file each, with one signature.

    attack(search, rows, *, steps, ...) -> None

Each asks the `Search` for margins and gradients of points of its choice. The search keeps the best adversarial point of
any query, so an attack returns nothing and can lose nothing.
"""

from metrics.attacks.deepfool import deepfool
from metrics.attacks.fast_minimum_norm import fast_minimum_norm
from metrics.attacks.line_search import line_search
from metrics.attacks.random_noise import random_noise
from metrics.attacks.search import Attack, Search

__all__ = ["Attack", "Search", "deepfool", "fast_minimum_norm", "line_search", "random_noise"]
