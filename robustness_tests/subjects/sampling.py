"""The order in which the images of a dataset are taken: as they are, at random, or from the classes in turn."""

from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

SAMPLES = ("first", "stratified", "random")
"""The values of `--sample`."""


def order_of(labels: NDArray[np.int64], sample: str, seed: int) -> list[int]:
    """Dataset indices in the order of a sample: the first N of them are the sample of N images.

    Args:
        labels: the classes of all images of the split.
        sample: "first"; "random", each image with the same probability; or "stratified", the classes in turn, and a
            random image of each.
        seed: seed of what is random.

    Example:
        >>> order_of(np.array([0, 0, 0, 1, 1]), "first", 0)
        [0, 1, 2, 3, 4]
        >>> [int(np.array([0, 0, 0, 1, 1])[row]) for row in order_of(np.array([0, 0, 0, 1, 1]), "stratified", 0)]
        [0, 1, 0, 1, 0]
    """
    rows = np.arange(len(labels))
    if sample == "first":
        return [int(row) for row in rows]
    rows = np.random.default_rng(seed).permutation(rows)
    if sample == "random":
        return [int(row) for row in rows]
    of_class = [rows[labels[rows] == label] for label in np.unique(labels)]
    return [int(row) for turn in zip_longest(*of_class) for row in turn if row is not None]
