"""What counts as good enough: `thresholds.toml`, checked. Imports no torch."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustness_tests.subjects.catalog import NORMS, closest
from robustness_tests.subjects.sources import CORRUPTIONS

DEFAULT_FILE = Path(__file__).parent.parent / "thresholds.toml"

SCALARS = {
    ("confidence",): "confidence",
    ("clean_accuracy", "least"): "clean_accuracy",
    ("common_corruptions", "least"): "common_corruptions",
    ("common_corruptions", "least_of_worst"): "worst_corruption",
    ("comparison", "largest_p_value"): "largest_p_value",
    ("clever_below_distance", "least_share"): "clever_below_distance",
    ("published_clever_below_distance", "least_share"): "published_clever_below_distance",
    ("clever_radius", "factor"): "clever_radius_factor",
    ("certified_distance", "least_ratio"): "certified_ratio",
    ("informative_gradients", "tolerance"): "gradient_tolerance",
    ("convergence", "tolerance"): "convergence",
    ("deployed", "least_agreement"): "deployed_agreement",
    ("deployed", "tolerance"): "deployed_tolerance",
    ("smoothed_radius", "sigma"): "smoothing_sigma",
    ("rare_failures", "least_share"): "rare_failures",
    ("baseline", "median"): "baseline_median",
    ("baseline", "share"): "baseline_share",
}
"""Place in the file, and attribute of `Thresholds`. All of them are in (0, 1]."""

SHARES = ("robust_accuracy", "certified_accuracy", "noise_accuracy", "smoothed_accuracy", "failure_probability")
"""Tables of least shares, or largest probabilities, by dataset, norm and epsilon, and attributes of `Thresholds`."""

FOR_SOME = ("datasets", "models")
"""Tables whose values hold for one dataset or one candidate only. Those for a candidate take precedence."""


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a run. The description of each attribute starts with its key in the file.

    Attributes:
        confidence: `confidence`, of every interval.
        clean_accuracy: `clean_accuracy.least`; None where no file states any for this dataset and candidate.
        common_corruptions: `common_corruptions.least`; None where no file states any.
        worst_corruption: `common_corruptions.least_of_worst`; None where no file states any.
        corruptions: `common_corruptions.NAME`: the least accuracy under a corruption, by its name.
        largest_p_value: `comparison.largest_p_value`.
        clever_below_distance: `clever_below_distance.least_share`.
        published_clever_below_distance: `published_clever_below_distance.least_share`; None: not judged.
        clever_radius_factor: `clever_radius.factor`.
        gradient_tolerance: `informative_gradients.tolerance`.
        certified_ratio: `certified_distance.least_ratio`.
        convergence: `convergence.tolerance`.
        deployed_agreement: `deployed.least_agreement`.
        deployed_tolerance: `deployed.tolerance`.
        baseline_median: `baseline.median`.
        baseline_share: `baseline.share`.
        robust_accuracy: `robust_accuracy`: dataset, norm, epsilon as written, least share.
        certified_accuracy: `certified_accuracy`, in the same way.
        noise_accuracy: `noise_accuracy`, in the same way.
        smoothed_accuracy: `smoothed_accuracy`, in the same way.
        failure_probability: `failure_probability`, in the same way: largest probabilities.
        rare_failures: `rare_failures.least_share`.
        smoothing_sigma: `smoothed_radius.sigma`.
        others: tables in the user's file for datasets and candidates that are not in this run.
        files: where the values are from: "bundled" and the name of the user's file, which takes precedence.
    """

    confidence: float
    clean_accuracy: float | None
    common_corruptions: float | None
    worst_corruption: float | None
    corruptions: Mapping[str, float]
    largest_p_value: float
    clever_below_distance: float
    published_clever_below_distance: float | None
    clever_radius_factor: float
    gradient_tolerance: float
    certified_ratio: float
    convergence: float
    deployed_agreement: float
    deployed_tolerance: float
    baseline_median: float
    baseline_share: float
    robust_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    certified_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    noise_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    smoothed_accuracy: Mapping[str, Mapping[str, Mapping[str, float]]]
    failure_probability: Mapping[str, Mapping[str, Mapping[str, float]]]
    rare_failures: float
    smoothing_sigma: float
    others: tuple[str, ...]
    files: tuple[str, ...]

    def epsilons(self, dataset: str, norm: str, table: str = "robust_accuracy") -> Mapping[str, float]:
        """Least shares of a table by epsilon; empty where no file states any for this dataset and norm."""
        shares: Mapping[str, Mapping[str, Mapping[str, float]]] = getattr(self, table)
        return shares.get(dataset, {}).get(norm, {})


def load_thresholds(path: Path | None, model: str = "", dataset: str = "") -> Thresholds:
    """Load the default thresholds and the user's file, which takes precedence.

    Within each file, values for the dataset take precedence over general ones, and values for the candidate `model`
    over both.

    Raises:
        ValueError: for a file that cannot be read or is not TOML, an unknown key, or a value of a wrong type or range.
    """
    optional = ("clean_accuracy", "common_corruptions", "worst_corruption", "published_clever_below_distance")
    merged: dict[str, Any] = {section: {} for section in (*SHARES, "corruptions")} | dict.fromkeys(optional)
    others: list[str] = []
    files = [DEFAULT_FILE] if path is None else [DEFAULT_FILE, path]
    for file in files:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"got a threshold file {file} that cannot be read: {reason}") from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"got a threshold file {file} that is not TOML: {error}") from error
        for_some = {kind: _for_some(kind, table.pop(kind, {}), file) for kind in FOR_SOME}
        _merge(merged, table, file)
        for kind, name in zip(FOR_SOME, (dataset, model), strict=True):
            _merge(merged, for_some[kind].get(name, {}), file)
            if file == path:
                others += [f"{kind}.{other}" for other in for_some[kind] if other != name]
        if file == path:
            others += [
                f"{section}.{other}" for section in SHARES for other in table.get(section, {}) if other != dataset
            ]
    return Thresholds(**merged, others=tuple(others), files=("bundled", *([] if path is None else [path.name])))


def _for_some(kind: str, tables: object, file: Path) -> dict[str, dict[str, Any]]:
    """The tables for single datasets or models. All are checked, even those that this run does not use."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"got {kind} = {tables!r} in {file}, expected tables [{kind}.NAME...]")
    of_names: dict[str, dict[str, Any]] = tables
    for table in of_names.values():
        _merge({section: {} for section in (*SHARES, "corruptions")}, table, file)
    return of_names


def _merge(merged: dict[str, Any], table: Mapping[str, Any], file: Path) -> None:
    for section, content in table.items():
        if section in SHARES:
            for dataset, norms in _tables(content, file, section):
                known = merged[section].setdefault(dataset, {})
                for norm, values in norms.items():
                    known[norm] = known.get(norm, {}) | _epsilons(norm, values, file, f"{section}.{dataset}")
        elif isinstance(content, dict) and section in {setting[0] for setting in SCALARS}:
            for key, value in content.items():
                if section == "common_corruptions" and key in CORRUPTIONS:
                    merged["corruptions"] = merged["corruptions"] | {key: _share(value, file, f"{section}.{key}")}
                else:
                    _put(merged, (section, key), value, file)
        else:
            _put(merged, (section,), content, file)


def _put(merged: dict[str, Any], setting: tuple[str, ...], value: object, file: Path) -> None:
    name = ".".join(setting)
    if setting not in SCALARS:
        known = [".".join(known_place) for known_place in SCALARS] + [*SHARES, *FOR_SOME]
        known += [f"common_corruptions.{corruption}" for corruption in CORRUPTIONS]
        raise ValueError(f"got {name!r} in {file}, {closest(name, known)}")
    merged[SCALARS[setting]] = _share(value, file, name)


def _share(value: object, file: Path, setting: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"got {setting} = {value!r} in {file}, expected a number above 0 and at most 1")
    return float(value)


def _tables(content: object, file: Path, setting: str) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise ValueError(f"got {setting} = {content!r} in {file}, expected a table [{setting}.DATASET]")
    return list(content.items())


def _epsilons(norm: str, values: object, file: Path, table: str) -> dict[str, float]:
    setting = f"{table}.{norm}"
    if norm not in NORMS:
        raise ValueError(f"got {setting!r} in {file}, {closest(norm, NORMS)}")
    if not isinstance(values, dict):
        raise ValueError(f"got {setting} = {values!r} in {file}, expected {{ epsilon = least share, ... }}")
    for epsilon, least in values.items():
        try:
            positive = 0 < float(epsilon) < math.inf
        except ValueError:
            positive = False
        if not positive:
            raise ValueError(
                f'got epsilon {epsilon!r} in {setting} in {file}, expected a positive number in quotes: "0.1"'
            )
        _share(least, file, f"{setting}.{epsilon}")
        if table.startswith("failure_probability.") and least >= 1:
            raise ValueError(f"got {setting}.{epsilon} = {least!r} in {file}, expected a probability below 1")
    return {epsilon: float(least) for epsilon, least in values.items()}
