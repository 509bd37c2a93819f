"""What a run has shown, from the records of its tests."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from reports.conclusions import worst_images_in
from reports.holm import holm
from reports.images import image_rows
from reports.looks import goes_on, said_of
from reports.pictures import pictures
from reports.provenance import commit, described, last_release, versions
from reports.results import Results
from reports.rows import Row, in_words, properties_of
from reports.sample_size import images_to_decide, is_open
from robustness_tests.harness.baseline import SCHEMA, Baseline
from robustness_tests.harness.measured import Costs, Figures, read
from robustness_tests.harness.records import BAD, VIOLATED, Record, Records
from robustness_tests.harness.run import Run

VERDICTS = {0: "pass", 1: "fail", 2: "interrupted", 3: "internal error", 4: "usage error", 5: "no tests"}


def summarise(run: Run, records: Records, exit_status: int) -> Results:
    """What a run has shown, finished or not."""
    ours = records.ours()
    of_images = [record for record in ours if "image" in record.about]
    of_models = [record for record in ours if "image" not in record.about]
    found = _with_holm([_model_row(record, run) for record in of_models])
    rows = [*_sorted(found, run), *_sorted(_image_rows(of_images, run), run)]
    images = image_rows(of_images, run)
    partial = exit_status == 0 and bool(records.deselected or untested(run, records) or not _judged(rows))
    costs = [cost for record in ours if None not in vars(cost := read(Costs, record.values)).values()]
    return Results(
        schema=SCHEMA,
        verdict="partial" if partial else VERDICTS.get(exit_status, "internal error"),
        exit_status=exit_status,
        notes=(*_looked(run, records, rows, exit_status), *_notes(run, records, rows)),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(max(0.0, time.time() - run.started), 1),
        commit=commit(),
        run=described(run),
        thresholds=dict(vars(run.thresholds)),
        versions=versions(),
        tests={"collected": records.collected, "deselected": records.deselected, "missing": records.missing},
        passes={
            "forward": sum(cost.forward or 0 for cost in costs),
            "backward": sum(cost.backward or 0 for cost in costs),
        },
        measurements={
            "measured": sum(not cost.stored for cost in costs),
            "stored": sum(bool(cost.stored) for cost in costs),
        },
        baseline=last_release(run.baseline),
        properties=tuple(rows),
        images=tuple(images),
        pictures=tuple(pictures(run, images, _named(rows, ours, run))),
        records=tuple(sorted(ours, key=lambda record: record.test)),
        goes_on=not records.missing and goes_on(rows, run, exit_status),
    )


def _with_holm(rows: Sequence[Row]) -> list[Row]:
    """Rows of comparisons with their p-values adjusted for all of them, in the same order."""
    p_values = [row.p_value for row in rows if row.p_value is not None]
    adjusted = iter(holm(p_values) if len(p_values) > 1 else [])
    return [row if row.p_value is None else replace(row, holm_p_value=next(adjusted, None)) for row in rows]


MAX_NAMED_IMAGES = 6
"""Largest number of images shown because a property that did not pass names them."""


def _named(rows: Sequence[Row], records: Sequence[Record], run: Run) -> list[int]:
    bad = [row for row in rows if row.outcome in BAD and row.model == run.model]
    images = [image for row in bad for image in worst_images_in(records, row)]
    return list(dict.fromkeys(images))[:MAX_NAMED_IMAGES]


def _sorted(rows: Iterable[Row], run: Run) -> list[Row]:
    """Sort rows: properties that did not pass first, then a fixed order, because workers finish in any order."""
    norms = list(run.norms)
    rows = list(rows)
    bad = {row.property_name for row in rows if row.outcome in BAD}
    return sorted(
        rows,
        key=lambda row: (
            row.property_name not in bad,
            row.property_name,
            norms.index(row.norm) if row.norm in norms else -1,
            _number_first(row.epsilon or ""),
            run.models.index(row.model) if row.model in run.models else -1,
        ),
    )


def _judged(rows: Iterable[Row]) -> bool:
    """Whether any requirement of the model was tested."""
    return any(row.outcome != "skipped" and row.concern in ("model", "release") for row in rows)


def _number_first(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def untested(run: Run, records: Records) -> list[str]:
    """Properties of the gate that no test of this run was about."""
    return sorted(properties_of(run.not_given) - {record.property_name for record in records.by_test.values()})


def _looked(run: Run, records: Records, rows: Sequence[Row], exit_status: int) -> list[str]:
    """What a look of `--images auto` has decided, if it was complete."""
    if run.looks is None or records.missing or exit_status not in (0, 1):
        return []
    return [said_of(run.looks, rows, more=goes_on(rows, run, exit_status))]


def _notes(run: Run, records: Records, rows: Sequence[Row]) -> list[str]:
    notes = []
    if run.quick:
        notes.append("Quick: a small budget for each image. Not for a release.")
    whole = not (records.deselected or records.missing or untested(run, records))
    if rows and whole and not _judged(rows):
        notes.append(
            f"Nothing was asked of the model: no threshold file states an accuracy for {run.dataset}, and there is no "
            "model to compare it with. The numbers of this run are measured and not judged. Not for a release."
        )
    if run.thresholds.others:
        notes.append(f"Not used: thresholds for other models or datasets ({', '.join(run.thresholds.others)}).")
    if run.baseline is not None:
        notes += _notes_of_baseline(run.baseline, run)
    if run.model == run.against:
        notes.append(f"Not compared: no other model than {run.model} was given (--against).")
    notes += run.remarks
    left_out = [in_words(name) for name in untested(run, records)]
    if records.deselected or left_out:
        what = f"{records.deselected} tests" if records.deselected else f"some properties ({'; '.join(left_out)})"
        notes.append(f"Partial: {what} were left out on the command line. Not for a release.")
    if records.missing:
        notes.append(f"Incomplete: {records.missing} of {records.collected} tests were not reported.")
    return notes


def _notes_of_baseline(baseline: Baseline, run: Run) -> list[str]:
    notes = []
    if baseline.verdict != "pass":
        notes.append(f"The last release itself has the verdict {baseline.verdict}.")
    common = len({image for _, image in baseline.images}.intersection(run.indices(run.images)))
    if common < run.images:
        notes.append(f"The last release has {common} of the {run.images} images: changes since then are of these.")
    return notes


def _image_rows(records: Sequence[Record], run: Run) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        key = (record.property_name, str(record.about.get("model", "")), str(record.about.get("norm", "")))
        groups.setdefault(key, []).append(record)
    return [_image_row(run, *key, group) for key, group in groups.items()]


def _image_row(run: Run, name: str, model: str, norm: str, group: Sequence[Record]) -> Row:
    judged = [record for record in group if record.outcome in ("passed", "xfailed", *VIOLATED)]
    bad = [record for record in group if record.outcome in BAD]
    good = sum(record.outcome == "passed" for record in judged)
    # A violation is known whatever else went wrong.
    bad.sort(key=lambda record: record.outcome not in VIOLATED)
    outcome = bad[0].outcome if bad else "passed" if judged else "skipped"
    violations = sum(record.outcome == "xfailed" for record in judged)
    message = bad[0].message if bad else f"{violations} violations: judged as a share" if violations else ""
    about = {**group[0].about, "model": model or None, "norm": norm or None, "reference": None, "epsilon": None}
    figures = Figures(
        images=len(judged),
        value=good / len(judged) if judged else None,
        threshold=1.0 if judged and not violations else None,
    )
    return _row(run, name, about, figures, [record.test for record in bad][:MAX_TESTS], outcome, message)


MAX_TESTS = 20
"""Largest number of failed tests about images that a row lists; the table of images has all of them."""


def _model_row(record: Record, run: Run) -> Row:
    figures = read(Figures, record.values)
    return _row(run, record.property_name, record.about, figures, [record.test], record.outcome, record.message)


def _row(
    run: Run,
    name: str,
    about: dict[str, object],
    figures: Figures,
    tests: Sequence[str],
    outcome: str,
    message: str,
) -> Row:
    concern, feeds, model, reference, norm, epsilon = (
        None if about.get(key) is None else str(about[key])
        for key in ("concern", "feeds", "model", "reference", "norm", "epsilon")
    )
    last = figures.baseline_value
    if last is None and run.baseline is not None and model == run.model:
        last = run.baseline.value(name, norm, epsilon, images=figures.images, reference=reference)
    judged = concern == "model" and outcome in ("passed", "failed")
    unit = figures.unit or ("distance" if figures.p_value is not None else "share")
    return Row(
        **{**vars(figures), "baseline_value": last, "unit": unit},
        property_name=name,
        concern=concern,
        feeds=feeds,
        model=model,
        reference=reference,
        norm=norm,
        epsilon=epsilon,
        tests=tuple(tests),
        is_open=judged and is_open(figures),
        images_to_decide=images_to_decide(figures, run.thresholds.confidence) if judged else None,
        outcome=outcome,
        message=message,
    )
