"""The named budgets: how many steps each attack may spend on an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """The budget for an image.

    Attributes:
        classes: number of classes, those with the largest logits, whose gradients are taken at the clean image.
        aims: number of these classes that get a descent of their own, those with the nearest linearised boundaries.
        restarts: number of descents from the best point with noise added.
        explore: steps of each of these descents.
        refined: number of points from these descents that are refined.
        refine: steps of each refinement.
        polish: steps of one more refinement, from the best point so far.
        random_noise: draws of random noise, for images where the first descents found nothing.
        random_starts: descents from random points of the box, for images where noise found nothing either.
        linearised: steps to the linearised boundary.
        line_search: steps of the line search back to the boundary; for "iterated-pgd", bisections of the last step.
        iterated_pgd: largest number of steps of the study's method.
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
        restarts=11,
        explore=10,
        refined=1,
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
        line_search=14,
        iterated_pgd=2000,
    ),
}
