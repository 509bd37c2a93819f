"""What a run has shown: one row for each property, model and norm. Every report draws this."""

import ast
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import robustness_tests
from robustness_tests.harness.records import Record, Records
from robustness_tests.harness.run import Run

VERDICTS = {0: "pass", 1: "fail", 2: "interrupted", 3: "internal error", 4: "usage error", 5: "no tests"}
BAD = ("failed", "error", "crashed")


@dataclass(frozen=True)
class Row:
    """A property of a model, as measured.

    Attributes:
        property_name: name of the test function.
        model: the model that it is about.
        reference: the model that it is compared with, if any.
        norm: norm of the perturbation, if any.
        epsilon: size of the perturbation, if any.
        images: number of images that it rests on.
        value: what was measured; a share of images for a property that is tested image by image.
        low: lower end of the interval, of the value or, in a comparison, of the difference.
        high: upper end of it.
        difference: median of the differences, in a comparison.
        threshold: what the value, or the p-value of a comparison, is held against.
        reference_value: the same for the reference.
        p_value: of a comparison.
        median_ratio: median of CLEVER / adversarial distance.
        certified_ratio: median of certified / exact distance, or certified / adversarial distance.
        attack_ratio: mean of adversarial / exact distance.
        clever_above: share of images whose CLEVER score is above the exact or adversarial distance.
        clever_below: share of images whose CLEVER score is below the certified distance.
        uninformative: whether the certificates are so small that they say nothing about the model.
        examples: number of perturbations that hypothesis drew.
        outcome: passed, failed, skipped, error or crashed.
        message: why it did not pass.
    """

    property_name: str
    model: str | None
    reference: str | None
    norm: str | None
    epsilon: str | None
    images: int | None
    value: float | None
    low: float | None
    high: float | None
    difference: float | None
    threshold: float | None
    reference_value: float | None
    p_value: float | None
    median_ratio: float | None
    certified_ratio: float | None
    attack_ratio: float | None
    clever_above: float | None
    clever_below: float | None
    uninformative: bool
    examples: int | None
    outcome: str
    message: str

    @property
    def title(self) -> str:
        """The property in words.

        Example:
            "robust accuracy at linf 0.05" for `test_robust_accuracy` with norm and epsilon.
        """
        words = in_words(self.property_name)
        where = " ".join(part for part in (self.norm, self.epsilon) if part)
        return f"{words}, {where}" if where else words


@dataclass(frozen=True)
class Summary:
    """All rows, and the verdict.

    Attributes:
        verdict: pass, partial, fail, interrupted, internal error, usage error or no tests: the exit status in words;
            partial is a pass of some of the properties only.
        exit_status: of pytest.
        rows: properties of models first, then those that are tested image by image.
        notes: what a reader has to know before believing the verdict: quick, partial, missing tests.
        forward: forward passes spent on all images of the run, whether now or when they were stored.
        backward: backward passes.
        measured: measurements made in this run.
        stored: measurements read from the store.
    """

    verdict: str
    exit_status: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    forward: int
    backward: int
    measured: int
    stored: int


def summarise(run: Run, records: Records, exit_status: int) -> Summary:
    """The summary of a run, finished or not."""
    ours = records.ours()
    of_images = [record for record in ours if "image" in record.about]
    of_models = [record for record in ours if "image" not in record.about]
    rows = [*_sorted(map(_model_row, of_models)), *_sorted(_image_rows(of_images))]
    partial = exit_status == 0 and bool(records.deselected or untested(records) or not _judged(rows))
    costs = [record.values for record in ours if record.values.keys() >= {"stored", "forward", "backward"}]
    return Summary(
        verdict="partial" if partial else VERDICTS.get(exit_status, "internal error"),
        exit_status=exit_status,
        rows=tuple(rows),
        notes=tuple(_notes(run, records, rows)),
        forward=sum(cost["forward"] for cost in costs),
        backward=sum(cost["backward"] for cost in costs),
        measured=sum(not cost["stored"] for cost in costs),
        stored=sum(bool(cost["stored"]) for cost in costs),
    )


def _sorted(rows: Iterable[Row]) -> list[Row]:
    """What went wrong comes first; else workers finish in any order, and the report has one."""
    return sorted(
        rows,
        key=lambda row: (
            row.outcome not in BAD,
            row.property_name,
            row.norm or "",
            _number_first(row.epsilon or ""),
            row.model or "",
        ),
    )


REQUIREMENTS = ("accuracy", "beats", "common_corruptions")
"""Words in the names of the properties that a model may lack; the others are about numbers that can be trusted."""


def _judged(rows: Iterable[Row]) -> bool:
    """Whether anything was asked of the model at all."""
    return any(row.outcome != "skipped" and any(word in row.property_name for word in REQUIREMENTS) for row in rows)


def _number_first(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


@functools.cache
def properties_of_the_gate() -> frozenset[str]:
    """The names of all test functions of `robustness_tests`, read and not imported: that would import torch."""
    files = Path(robustness_tests.__file__).parent.glob("test_*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    functions = [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return frozenset(name for name in functions if name.startswith("test_"))


def untested(records: Records) -> list[str]:
    """Properties of the gate that no test of this run was about."""
    return sorted(properties_of_the_gate() - {record.property_name for record in records.by_test.values()})


def in_words(property_name: str) -> str:
    """The name of a test function as a reader sees it.

    Example:
        >>> in_words("test_share_of_clever_below_distance")
        'share of CLEVER below distance'
    """
    return property_name.removeprefix("test_").replace("_", " ").replace("clever", "CLEVER")


def _notes(run: Run, records: Records, rows: Sequence[Row]) -> list[str]:
    notes = []
    violated = [row.title for row in rows if row.outcome in BAD]
    if violated:
        notes.append(f"Violated: {'; '.join(violated)}.")
    if run.quick:
        notes.append("Quick: a small budget for each image. Not for a release.")
    if rows and not _judged(rows):
        notes.append(
            f"Nothing was asked of the model: no threshold file states an accuracy for {run.dataset}, and there is no "
            "model to compare it with. The numbers below are measured and not judged. Not for a release."
        )
    if run.thresholds.others:
        notes.append(f"Thresholds for others, not used: {', '.join(run.thresholds.others)}.")
    if run.model == run.against:
        notes.append(f"Not compared: no other model than {run.model} was given (--against).")
    notes += run.remarks
    left_out = [in_words(name) for name in untested(records)]
    if records.deselected or left_out:
        what = f"{records.deselected} tests" if records.deselected else f"some properties ({'; '.join(left_out)})"
        notes.append(f"Partial: {what} were left out on the command line. Not for a release.")
    if records.missing:
        notes.append(f"Incomplete: {records.missing} of {records.collected} tests were not reported.")
    return notes


def _image_rows(records: Sequence[Record]) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        place = (record.property_name, str(record.about.get("model", "")), str(record.about.get("norm", "")))
        groups.setdefault(place, []).append(record)
    return [_image_row(*place, group) for place, group in groups.items()]


def _image_row(name: str, model: str, norm: str, group: Sequence[Record]) -> Row:
    judged = [record for record in group if record.outcome != "skipped"]
    bad = [record for record in judged if record.outcome in BAD]
    good = sum(record.outcome == "passed" for record in judged)
    outcome = bad[0].outcome if bad else "passed" if judged else "skipped"
    return _row(
        name,
        {"model": model or None, "norm": norm or None},
        {"images": len(judged), "value": good / len(judged) if judged else None},
        outcome,
        bad[0].message if bad else "",
    )


def _model_row(record: Record) -> Row:
    return _row(record.property_name, record.about, record.values, record.outcome, record.message)


def _row(name: str, about: dict[str, object], values: dict[str, object], outcome: str, message: str) -> Row:
    def number(key: str) -> float | None:
        value = values.get(key)
        return float(value) if isinstance(value, int | float) else None

    def text(key: str) -> str | None:
        value = about.get(key)
        return None if value is None else str(value)

    images, examples = values.get("images"), values.get("examples")
    return Row(
        property_name=name,
        model=text("model"),
        reference=text("reference"),
        norm=text("norm"),
        epsilon=text("epsilon"),
        images=images if isinstance(images, int) else None,
        value=number("value"),
        low=number("low"),
        high=number("high"),
        difference=number("difference"),
        threshold=number("threshold"),
        reference_value=number("reference_value"),
        p_value=number("p_value"),
        median_ratio=number("median_ratio"),
        certified_ratio=number("certified_ratio"),
        attack_ratio=number("attack_ratio"),
        clever_above=number("clever_above"),
        clever_below=number("clever_below"),
        uninformative=bool(values.get("uninformative")),
        examples=examples if isinstance(examples, int) else None,
        outcome=outcome,
        message=message,
    )


HEADER = ("property", "model", "measured", "interval", "needed", "images", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, in the columns of `HEADER`."""
    if row.p_value is not None and row.reference_value is not None and row.threshold is not None:
        measured = f"{_decimal(row.value)}, {row.reference} {_decimal(row.reference_value)}"
        interval = "" if row.low is None else f"difference {_signed(row.low)} to {_signed(row.high)}"
        needed = f"larger, p <= {row.threshold:g} (p = {row.p_value:.2g})"
    elif row.examples is not None and row.threshold is not None:
        measured, interval = "", ""
        radius = "the certified radius" if "certified" in row.property_name else f"{row.threshold:g} x CLEVER"
        needed = f"none of {row.examples} at {radius}"
    else:
        measured = "" if row.value is None else f"{row.value:.1%}"
        if row.median_ratio is not None:
            measured += f", median ratio {row.median_ratio:.2f}"
        measured += _bracket(row)
        if row.reference_value is not None:
            measured += f", {row.reference} {row.reference_value:.1%}"
        interval = "" if row.low is None or row.high is None else f"{row.low:.1%} to {row.high:.1%}"
        needed = "" if row.threshold is None or row.value is None else f">= {row.threshold:.1%}"
    images = "" if row.images is None else str(row.images)
    return (row.title, row.model or "", measured, interval, needed, images, row.outcome)


def _bracket(row: Row) -> str:
    """What is known about certificates, attacks and scores, in words."""
    texts = []
    if row.clever_above is not None and row.clever_below is not None:
        texts.append(f" inside, {row.clever_above:.1%} above, {row.clever_below:.1%} below")
    if row.attack_ratio is not None:
        texts.append(f" solved, adversarial / exact {row.attack_ratio:.4f}")
    if row.certified_ratio is not None:
        over = "exact" if row.attack_ratio is not None else "adversarial"
        text = f"certified / {over} {row.certified_ratio:.2f}"
        texts.append(f"{text} (uninformative)" if row.uninformative else text)
    return ", ".join(texts)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "?" if value is None else f"{value:+.4f}"


def headline(run: Run, summary: Summary) -> str:
    """The verdict in one line."""
    comparison = "" if run.model == run.against else f" against {run.against}"
    quick = " (quick)" if run.quick else ""
    return f"{summary.verdict.upper()}{quick}: {run.model}{comparison} on {run.dataset}, {run.images} images"
