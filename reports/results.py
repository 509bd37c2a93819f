"""What every report is drawn from: the content of results.json. Its schema is docs/results.md."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from reports.images import ImageRow
from reports.pictures import Picture
from reports.rows import GROUPS, Row
from robustness_tests.harness.baseline import read_results
from robustness_tests.harness.records import BAD, Record
from robustness_tests.harness.values import plain

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Results:
    """A run, as it is written to results.json and read from it.

    Attributes:
        schema: version of all this.
        verdict: pass, partial, fail, interrupted, internal error, usage error or no tests: the exit status in words;
            partial is a pass of some of the properties only.
        exit_status: of pytest.
        notes: what a reader has to know before believing the verdict: quick, partial, missing tests.
        finished: when the run ended, ISO 8601 in UTC.
        seconds: how long it took.
        commit: of the folder that pytest was called in; None outside of git.
        run: the options.
        thresholds: what the numbers were held against.
        versions: of packages.
        tests: collected, deselected and missing ones.
        passes: forward and backward passes spent on all images of the run, whether now or when they were stored.
        measurements: made in this run, and read from the store.
        baseline: the last release, if there was one to compare with.
        properties: of models first, then those that are tested image by image; what went wrong comes first.
        images: a row for each model, norm and image.
        pictures: images to look at.
        records: every test.
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
        """Whether the budget is one that no release should depend on."""
        return bool(self.run["effort"] == "quick")

    @property
    def violated(self) -> list[Row]:
        """Properties that do not hold, in the order of a reviewer's questions."""
        order = list(GROUPS)
        return sorted((row for row in self.properties if row.outcome in BAD), key=lambda row: order.index(row.group))

    def of(self, model: str, norm: str) -> list[ImageRow]:
        """The images of a model in a norm, by index."""
        return [row for row in self.images if (row.model, row.norm) == (model, norm)]

    def to_json(self) -> dict[str, Any]:
        """Plain values only; what is infinite or not a number is None."""
        content: dict[str, Any] = plain(asdict(self))
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Results":
        """From the content of a results.json of this schema; fields of a later version are left out.

        Raises:
            TypeError: for fields that are missing.
        """
        lists: dict[str, type[Any]] = {"properties": Row, "images": ImageRow, "pictures": Picture, "records": Record}
        rows: dict[str, Any] = {name: tuple(_of(kind, row) for row in content[name]) for name, kind in lists.items()}
        return _of(Results, {**content, **rows, "notes": tuple(content["notes"])})


def _of(kind: type[Kind], fields: Mapping[str, Any]) -> Kind:
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in fields.items() if name in known})


DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What drawing raises for values that no run writes."""


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
