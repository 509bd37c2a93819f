"""`--images auto`: looks at more and more images, until the requirements are decided. Imports no torch.

Each look is a usual run, with intervals and p-values at an equal part of the error that a run of one look may have. By
Bonferroni's inequality, all looks together then have that error at most, whatever the tests are. This is alpha spending
(Lan and DeMets 1983) with a spending function that is linear in the number of the look.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from robustness_tests.harness.thresholds import Thresholds

LIMIT = 1000
"""Largest number of images, unless it is stated."""


@dataclass(frozen=True)
class Looks:
    """The planned looks, and which one this run is.

    Attributes:
        sizes: the number of images at each look.
        number: of this look, from 0 on.
    """

    sizes: tuple[int, ...]
    number: int = 0

    @property
    def images(self) -> int:
        """The number of images at this look."""
        return self.sizes[self.number]

    @property
    def next(self) -> "Looks | None":
        """The next look; None at the last one."""
        return replace(self, number=self.number + 1) if self.number + 1 < len(self.sizes) else None

    def within(self, test_images: int) -> "Looks":
        """The same plan for a test split of so many images."""
        return replace(self, sizes=planned_sizes(self.sizes[0], min(self.sizes[-1], test_images)))

    def spent(self, thresholds: Thresholds) -> Thresholds:
        """Thresholds with the part of the error that one look may spend."""
        return replace(
            thresholds,
            confidence=1 - (1 - thresholds.confidence) / len(self.sizes),
            largest_p_value=thresholds.largest_p_value / len(self.sizes),
        )


@dataclass(frozen=True)
class LaterLook:
    """What a look after the first one is told.

    Attributes:
        looks: the plan.
        started: when the first look began, in seconds since the epoch.
    """

    looks: Looks
    started: float


LATER_LOOK = pytest.StashKey[LaterLook | None]()
"""None at the first look; missing where there are no looks."""


def planned_sizes(first: int, limit: int) -> tuple[int, ...]:
    """Numbers of images that double up to the limit. One that is nearly the limit is left out.

    Example:
        >>> planned_sizes(100, 1000), planned_sizes(60, 500), planned_sizes(100, 80)
        ((100, 200, 400, 1000), (60, 120, 240, 500), (80,))
    """
    return (*_doubling(first, limit), limit)


def _doubling(size: int, limit: int) -> Iterator[int]:
    while 3 * size <= 2 * limit:
        yield size
        size *= 2
