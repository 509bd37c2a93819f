"""The order in which the attacks run, and where each starts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metrics.attacks.boundary_descent import EXPLORE, REFINE, boundary_descent
from metrics.attacks.effort import Effort
from metrics.attacks.line_search import line_search
from metrics.attacks.linearised import linearised
from metrics.attacks.random_noise import random_noise
from metrics.attacks.restarts import noise_of, noisy_starts, random_starts
from metrics.attacks.search import Attack, Search, nearest_classes
from metrics.attacks.shortlist import Shortlist


def descend(search: Search, rows: Tensor, effort: Effort, generators: Sequence[torch.Generator]) -> None:
    """Search for small perturbations: run short descents to several boundaries and from noise, then refine the best.

    Args:
        search: the images, and the record of the best points.
        rows: indices of the images to attack, shape (R,).
        effort: how much is spent on each.
        generators: a source of randomness for each image of the search, on the CPU.
    """
    if not len(rows):
        return
    shortlist = Shortlist(effort.refined, search.images)
    _explore_from_clean(search, rows, effort, shortlist)
    _explore_blindly(search, rows[search.distance[rows].isinf()], effort, generators)
    rows = rows[search.distance[rows].isfinite()]
    if not len(rows):
        return
    for restart in range(effort.restarts):
        noise = noise_of(restart, effort.restarts)
        start, within = noisy_starts(search, rows, noise, generators), 1.3 * search.distance[rows]
        reached = boundary_descent(
            search,
            rows,
            steps=effort.explore,
            pace=EXPLORE[search.norm],
            start=start,
            within=within,
            attack=Attack.RESTART,
        )
        shortlist.offer(rows, reached.distance, reached.points)
    for points, distance in zip(shortlist.points, shortlist.distance, strict=True):
        known = rows[distance[rows].isfinite()]
        boundary_descent(search, known, steps=effort.refine, pace=REFINE, start=points[known], within=distance[known])
    if effort.polish:
        best, within = search.adversarial[rows], search.distance[rows]
        boundary_descent(search, rows, steps=effort.polish, pace=REFINE, start=best, within=within)
    linearised(search, rows, steps=effort.linearised)


def _explore_from_clean(search: Search, rows: Tensor, effort: Effort, shortlist: Shortlist) -> None:
    if search.targets is not None:
        # There is only one class to aim at, so a single descent gets the steps of all.
        reached = boundary_descent(search, rows, steps=effort.aims * effort.explore, pace=EXPLORE[search.norm])
        shortlist.offer(rows, reached.distance, reached.points)
        return
    nearest = nearest_classes(search, rows, effort.classes, effort.aims)
    for start, aims in zip(nearest.points, nearest.classes.T, strict=True):
        # From the clean image to the linearised boundary: the first step of DeepFool (Moosavi-Dezfooli et al. 2016).
        reached = boundary_descent(
            search, rows, steps=effort.explore - 1, pace=EXPLORE[search.norm], start=start, aims=aims
        )
        shortlist.offer(rows, reached.distance, reached.points)


def _explore_blindly(search: Search, rows: Tensor, effort: Effort, generators: Sequence[torch.Generator]) -> None:
    """Attack images whose gradient leads nowhere: noise needs no gradient, and other points of the box may have one."""
    random_noise(search, rows, steps=effort.random_noise, generators=generators)
    line_search(search, rows[search.distance[rows].isfinite()], steps=effort.line_search)
    for _ in range(effort.random_starts):
        rows = rows[search.distance[rows].isinf()]
        if not len(rows):
            return
        start = random_starts(search, rows, generators)
        boundary_descent(
            search, rows, steps=effort.explore, pace=EXPLORE[search.norm], start=start, attack=Attack.RESTART
        )
