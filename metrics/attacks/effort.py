"""How much is spent on an image: the named budgets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much is spent on an image.

    Attributes:
        classes: classes whose gradients are taken at the clean image, those with the largest logits.
        aims: of these, the classes that a first descent goes for: those with the nearest linearised boundaries.
        restarts: descents from the best point with noise.
        explore: steps of each of all these descents.
        refined: how many of the points that they reach are refined.
        refine: steps for each of these.
        polish: steps from the best point of all.
        random_noise: strengths of noise, where nothing else has found anything.
        random_starts: descents from random points of the box, where noise has found nothing either.
        linearised: steps to the linearised boundary.
        line_search: steps of the way back to the boundary.
        iterated_pgd: steps of the study's method, at most.
    """

    classes: int
    aims: int
    restarts: int
    explore: int
    refined: int
    refine: int
    polish: int
    random_noise: int
    random_starts: int
    linearised: int
    line_search: int
    iterated_pgd: int


EFFORTS: dict[str, Effort] = {
    "quick": Effort(
        classes=4,
        aims=2,
        restarts=0,
        explore=10,
        refined=1,
        refine=8,
        polish=0,
        random_noise=10,
        random_starts=2,
        linearised=1,
        line_search=3,
        iterated_pgd=80,
    ),
    "default": Effort(
        classes=9,
        aims=3,
        restarts=8,
        explore=11,
        refined=2,
        refine=24,
        polish=6,
        random_noise=20,
        random_starts=5,
        linearised=1,
        line_search=4,
        iterated_pgd=400,
    ),
    "thorough": Effort(
        classes=9,
        aims=9,
        restarts=55,
        explore=12,
        refined=4,
        refine=30,
        polish=20,
        random_noise=50,
        random_starts=20,
        linearised=3,
        line_search=8,
        iterated_pgd=2000,
    ),
}
