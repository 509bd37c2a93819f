"""The content of results.json, from which every report is made. docs/results.md describes its schema."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from reports.images import ImageRow
from reports.pictures import Picture
from reports.rows import GROUPS, Row
from robustness_tests.harness.baseline import read_results
from robustness_tests.harness.records import UNJUDGED, VIOLATED, Record
from robustness_tests.harness.values import plain

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Results:
    """A run, as it is written to results.json and read from it.

    Attributes:
        schema: version of the format.
        verdict: the exit status in words: pass, partial, fail, interrupted, internal error, usage error or no tests;
            partial means that nothing failed, but not everything was tested.
        exit_status: exit status of pytest.
        notes: limits of the verdict, such as quick effort, left out properties or missing tests.
        finished: when the run ended, ISO 8601 in UTC.
        seconds: how long it took.
        commit: of the folder that pytest was called in; None outside of git.
        run: the options.
        thresholds: what the numbers were compared with.
        versions: versions of packages.
        tests: numbers of collected, deselected and missing tests.
        passes: forward and backward passes spent on all images, in this run or when measurements were stored.
        measurements: numbers of measurements made in this run, and read from the store.
        baseline: the last release, if there was one to compare with.
        properties: properties of models first, then those tested image by image; in both, failed ones come first.
        images: a row for each model, norm and image.
        pictures: images to look at.
        records: every test.
        goes_on: whether the next look of `--images auto` follows, so that this verdict is not the last one.
    """

    schema: int
    verdict: str
    exit_status: int
    notes: tuple[str, ...]
    finished: str
    seconds: float
    commit: str | None
    run: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    versions: Mapping[str, str | None]
    tests: Mapping[str, int]
    passes: Mapping[str, int]
    measurements: Mapping[str, int]
    baseline: Mapping[str, Any] | None
    properties: tuple[Row, ...]
    images: tuple[ImageRow, ...]
    pictures: tuple[Picture, ...]
    records: tuple[Record, ...]
    goes_on: bool = False

    @property
    def model(self) -> str:
        """The candidate."""
        return str(self.run["model"])

    @property
    def against(self) -> str | None:
        """The reference, if there is one."""
        return None if self.run["against"] == self.model else str(self.run["against"])

    @property
    def models(self) -> list[str]:
        """Candidate and reference."""
        return [self.model, self.against] if self.against else [self.model]

    @property
    def norms(self) -> list[str]:
        """The norms of the run."""
        return list(self.run["norms"])

    @property
    def quick(self) -> bool:
        """Whether the effort is quick, which is too little for a release."""
        return bool(self.run["effort"] == "quick")

    @property
    def violated(self) -> list[Row]:
        """Violated properties, in the order of the parts of the report."""
        return self._in_order(VIOLATED)

    @property
    def unjudged(self) -> list[Row]:
        """Properties that an error or a crash kept from being tested, in the same order."""
        return self._in_order(UNJUDGED)

    def _in_order(self, outcomes: Sequence[str]) -> list[Row]:
        order = list(GROUPS)
        return sorted(
            (row for row in self.properties if row.outcome in outcomes), key=lambda row: order.index(row.group)
        )

    def of(self, model: str, norm: str) -> list[ImageRow]:
        """The images of a model in a norm, by index."""
        return [row for row in self.images if (row.model, row.norm) == (model, norm)]

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values; infinity and NaN become None."""
        content: dict[str, Any] = plain(asdict(self))
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Results":
        """Read the content of a results.json of this schema; ignore fields of a later version.

        Raises:
            KeyError: if "notes" or a list of rows is missing.
            TypeError: if another field is missing.
        """
        lists: dict[str, type[Any]] = {"properties": Row, "images": ImageRow, "pictures": Picture, "records": Record}
        rows: dict[str, Any] = {name: tuple(_of(kind, row) for row in content[name]) for name, kind in lists.items()}
        return _of(Results, {**content, **rows, "notes": tuple(content["notes"])})


def _of(kind: type[Kind], fields: Mapping[str, Any]) -> Kind:
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in fields.items() if name in known})


DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors from drawing a results.json with values that no run writes."""


def load_results(path: Path, text: str) -> Results:
    """The results in a file.

    Raises:
        ValueError: for a file that cannot be read, is no results.json, or has another schema.
    """
    content = read_results(path, text)
    try:
        return Results.from_json(content)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"got {text!r}, which is incomplete ({error}), expected a results.json of this suite"
        ) from error


def headline(results: Results) -> str:
    """The verdict in one line."""
    comparison = f" against {results.against}" if results.against else ""
    quick = " (quick)" if results.quick else ""
    count = results.run["images"]
    images = f"{count} image" if count == 1 else f"{count} images"
    return f"{results.verdict.upper()}{quick}: {results.model}{comparison} on {results.run['dataset']}, {images}"
