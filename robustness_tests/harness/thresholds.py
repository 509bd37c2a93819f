"""What counts as good enough: `thresholds.toml`, checked. Imports no torch."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness_tests.subjects.catalog import MODELS, NORMS, closest

DEFAULT_FILE = Path(__file__).parent.parent / "thresholds.toml"

SCALARS = {
    ("confidence",): "confidence",
    ("clean_accuracy", "least"): "clean_accuracy",
    ("comparison", "largest_p_value"): "largest_p_value",
    ("clever_below_distance", "least_share"): "clever_below_distance",
    ("clever_radius", "factor"): "clever_radius_factor",
    ("certified_distance", "least_ratio"): "certified_ratio",
    ("informative_gradients", "tolerance"): "gradient_tolerance",
}
"""Place in the file, and attribute of `Thresholds`. All of them are in (0, 1]."""

SHARES = ("robust_accuracy", "certified_accuracy")
"""Tables of least shares by dataset, norm and epsilon, and attributes of `Thresholds`."""


@dataclass(frozen=True)
class Thresholds:
    """The values of the file; each attribute says where it stands there.

    Attributes:
        confidence: `confidence`, of every interval.
        clean_accuracy: `clean_accuracy.least`.
        largest_p_value: `comparison.largest_p_value`.
        clever_below_distance: `clever_below_distance.least_share`.
        clever_radius_factor: `clever_radius.factor`.
        gradient_tolerance: `informative_gradients.tolerance`.
        certified_ratio: `certified_distance.least_ratio`.
        robust_accuracy: `robust_accuracy`: dataset, norm, epsilon as written, least share.
        certified_accuracy: `certified_accuracy`, in the same way.
        files: the files that the values were read from, the last one wins.
    """

    confidence: float
    clean_accuracy: float
    largest_p_value: float
    clever_below_distance: float
    clever_radius_factor: float
    gradient_tolerance: float
    certified_ratio: float
    robust_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    certified_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    files: tuple[str, ...]

    def epsilons(self, dataset: str, norm: str, *, certified: bool = False) -> Mapping[str, float]:
        """Least robust or certified accuracy by epsilon; empty where no file states any for this dataset and norm."""
        shares = self.certified_accuracy if certified else self.robust_accuracy
        return shares.get(dataset, {}).get(norm, {})


def load_thresholds(path: Path | None, model: str | None = None) -> Thresholds:
    """The default thresholds, with those of the candidate `model` on top, and those of a file of the user above both.

    Raises:
        ValueError: for a file that cannot be read or is no TOML, an unknown key, a value of another type or range.
    """
    merged: dict[str, Any] = {section: {} for section in SHARES}
    files = [DEFAULT_FILE] if path is None else [DEFAULT_FILE, path]
    for file in files:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"got a threshold file {file} that cannot be read: {reason}") from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"got a threshold file {file} that is not TOML: {error}") from error
        of_models = _models(table.pop("models", {}), file)
        _merge(merged, table, file)
        _merge(merged, of_models.get(model or "", {}), file)
    return Thresholds(**merged, files=tuple(file.name for file in files))


def _models(tables: object, file: Path) -> dict[str, dict[str, Any]]:
    """The tables of single models, all of them checked: a mistake in one that is not run would wait for the day."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"got models = {tables!r} in {file}, expected tables [models.NAME...]")
    of_models: dict[str, dict[str, Any]] = tables
    for name, table in of_models.items():
        if name not in MODELS:
            raise ValueError(f"got [models.{name}] in {file}, {closest(name, MODELS)}")
        _merge({section: {} for section in SHARES}, table, file)
    return of_models


def _merge(merged: dict[str, Any], table: Mapping[str, Any], file: Path) -> None:
    for section, content in table.items():
        if section in SHARES:
            for dataset, norms in _tables(content, file, section):
                known = merged[section].setdefault(dataset, {})
                for norm, values in norms.items():
                    known[norm] = known.get(norm, {}) | _epsilons(norm, values, file, f"{section}.{dataset}")
        elif isinstance(content, dict) and section in {place[0] for place in SCALARS}:
            for key, value in content.items():
                _put(merged, (section, key), value, file)
        else:
            _put(merged, (section,), content, file)


def _put(merged: dict[str, Any], place: tuple[str, ...], value: object, file: Path) -> None:
    name = ".".join(place)
    if place not in SCALARS:
        known = [".".join(known_place) for known_place in SCALARS] + [*SHARES, "models"]
        raise ValueError(f"got {name!r} in {file}, {closest(name, known)}")
    merged[SCALARS[place]] = _share(value, file, name)


def _share(value: object, file: Path, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"got {place} = {value!r} in {file}, expected a number above 0 and at most 1")
    return float(value)


def _tables(content: object, file: Path, place: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise ValueError(f"got {place} = {content!r} in {file}, expected a table [{place}.DATASET]")
    return list(content.items())


def _epsilons(norm: str, values: object, file: Path, table: str) -> dict[str, float]:
    place = f"{table}.{norm}"
    if norm not in NORMS:
        raise ValueError(f"got {place!r} in {file}, {closest(norm, NORMS)}")
    if not isinstance(values, dict):
        raise ValueError(f"got {place} = {values!r} in {file}, expected {{ epsilon = least share, ... }}")
    for epsilon, least in values.items():
        try:
            positive = float(epsilon) > 0
        except ValueError:
            positive = False
        if not positive:
            raise ValueError(
                f'got epsilon {epsilon!r} in {place} in {file}, expected a positive number in quotes: "0.1"'
            )
        _share(least, file, f"{place}.{epsilon}")
    return {epsilon: float(least) for epsilon, least in values.items()}
