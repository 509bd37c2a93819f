"""The accuracies that RobustBench states for its models. Imports no torch."""

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files

from robustness_tests.subjects.sources import Source

NORMS = {"Linf": "linf", "L2": "l2"}
"""The norms of RobustBench's threat models."""

DATASETS = {("cifar10", ""): "cifar10", ("torchvision", "CIFAR100"): "cifar100"}
"""RobustBench's names of the datasets that have a name here, by kind and location of the source. Of ImageNet it takes
5,000 images of its own choice, so its figures are not those of another folder of images."""


@dataclass(frozen=True)
class LeaderboardEntry:
    """What RobustBench states for a model: shares of all test images.

    Attributes:
        clean: clean accuracy.
        norm: norm of the perturbations; empty for a model that is ranked by common corruptions.
        epsilon: their largest norm, as stated: "8/255" or "0.5"; empty without a norm.
        autoattack: accuracy under AutoAttack (Croce and Hein 2020); None without a norm.
        external: accuracy under a stronger attack, if one was reported.
        unreliable: whether RobustBench calls the figure of AutoAttack potentially unreliable.
    """

    clean: float
    norm: str
    epsilon: str
    autoattack: float | None
    external: float | None
    unreliable: bool

    @property
    def robust(self) -> float | None:
        """The smallest accuracy under attack that is stated: an upper bound of the true robust accuracy."""
        return min((one for one in (self.autoattack, self.external) if one is not None), default=None)

    @property
    def size(self) -> float:
        """`epsilon` as a number."""
        return float(Fraction(self.epsilon))

    def __str__(self) -> str:
        attacks = {"AutoAttack": self.autoattack, "a stronger attack": self.external}
        at = f" at {self.norm} {self.epsilon}"
        said = [f"{name}{at} {share:.2%}" for name, share in attacks.items() if share is not None]
        doubt = ["of which that of AutoAttack is called potentially unreliable"] if self.unreliable else []
        return ", ".join([f"clean {self.clean:.2%}", *said, *doubt])


def leaderboard_entry(model: Source, dataset: Source) -> LeaderboardEntry | None:
    """What RobustBench states for a model on a dataset; None if the model or the dataset is not one of its own.

    Example:
        >>> from pathlib import Path
        >>> from robustness_tests.subjects.sources import dataset_source, model_source
        >>> cifar10 = dataset_source("cifar10", Path())
        >>> model = model_source("robustbench:cifar10/Linf/Carmon2019Unlabeled", cifar10, Path())
        >>> print(leaderboard_entry(model, cifar10))
        clean 89.69%, AutoAttack at linf 8/255 59.53%
    """
    name, _, _ = model.location.partition("/")
    if model.kind != "robustbench" or name != DATASETS.get((dataset.kind, dataset.location)):
        return None
    return _stated().get(model.location)


@functools.cache
def _stated() -> Mapping[str, LeaderboardEntry]:
    text = (files("robustness_tests.subjects") / "data" / "robustbench.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {"/".join(row[name] for name in ("dataset", "threat", "model")): _accuracy(row) for row in rows}


def _accuracy(row: Mapping[str, str]) -> LeaderboardEntry:
    norm = NORMS.get(row["threat"], "")
    return LeaderboardEntry(
        clean=float(row["clean"]) / 100,
        norm=norm,
        epsilon=row["epsilon"] if norm else "",
        autoattack=_share(row["autoattack"]) if norm else None,
        external=_share(row["external"]) if norm else None,
        unreliable=row["unreliable"] == "yes",
    )


def _share(per_cent: str) -> float | None:
    return float(per_cent) / 100 if per_cent else None
