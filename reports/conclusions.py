"""Conclusions in words for each part of the report, and the images to look at after a failure."""

import re
from collections.abc import Callable, Iterable, Sequence

from reports.results import Results
from reports.rows import Row
from robustness_tests.harness.measured import Measured, read
from robustness_tests.harness.records import Record
from robustness_tests.harness.worst import MAX_WORST_IMAGES

TIGHT, LOOSE = 0.7, 0.3
"""A median of CLEVER / adversarial distance of `TIGHT` or more is called tight; one below `LOOSE` says little."""


def conclusion(results: Results, part: str) -> str:
    """Summarise a part of the report in a sentence or two; empty if there is nothing to say."""
    rows = [row for row in results.properties if row.group == part]
    conclusions: dict[str, Callable[[Results, Sequence[Row]], str]] = {
        "requirement": _better,
        "since": _since,
        "trust": _trust,
    }
    return conclusions[part](results, rows) if part in conclusions else ""


def _better(results: Results, rows: Sequence[Row]) -> str:
    compared = [row for row in rows if row.p_value is not None]
    if not compared or results.against is None:
        return ""
    better = [row for row in compared if row.outcome == "passed"]
    said = (
        f"{results.model} is shown to be better than {results.against} in {len(better)} of {len(compared)} comparisons"
    )
    measured = "; ".join(
        f"{_what(row)} {_number(row, row.value)} against {_number(row, row.reference_value)}" for row in better
    )
    return f"{said} on the same images: {measured}.{_holm(better)}" if better else f"{said}."


def _holm(better: Sequence[Row]) -> str:
    adjusted = [(row.holm_p_value, row.threshold or 0) for row in better if row.holm_p_value is not None]
    hold = sum(p_value <= largest for p_value, largest in adjusted)
    return f" With Holm's correction for all comparisons, {hold} of these {len(adjusted)} hold." if adjusted else ""


def _what(row: Row) -> str:
    return re.sub("^candidate beats reference (in|under) ", "", row.title)


def _number(row: Row, value: float | None) -> str:
    if value is None:
        return "beyond what attacks found"
    return f"{value:.1%}" if row.unit == "share" else f"{value:.4g}"


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Rows whose test passed or failed: an error says nothing about the model."""
    return [row for row in rows if row.outcome in ("passed", "failed")]


def _since(results: Results, rows: Sequence[Row]) -> str:
    judged = _judged(rows)
    if not judged or results.baseline is None:
        return ""
    bad = sum(row.outcome == "failed" for row in judged)
    last = f"{results.baseline['model']} of {results.baseline['finished'][:10]} ({results.baseline['file']})"
    if not bad:
        return f"None of {len(judged)} numbers has fallen by more than its tolerance since {last}."
    return f"{bad} of {len(judged)} numbers have fallen by more than their tolerance since {last}."


def _trust(results: Results, rows: Sequence[Row]) -> str:
    return " ".join(filter(None, (_clever(results, rows), _attack(results, rows), _suite(rows))))


def _clever(results: Results, rows: Sequence[Row]) -> str:
    shares = [row for row in _judged(rows) if row.feeds == "clever_share" and row.model == results.model and row.images]
    if not shares:
        return ""
    failed = any(row.outcome == "failed" for row in shares)
    parts = []
    for row in shares:
        wrong = round((1 - (row.value or 0.0)) * (row.images or 0))
        text = (
            f"in {row.norm} the score of {results.model} exceeds the adversarial distance or is missing for {wrong} of "
        )
        text += f"{row.images} images"
        if row.median_ratio is not None and not failed:
            kind = "tight" if row.median_ratio >= TIGHT else "loose" if row.median_ratio >= LOOSE else "says little"
            text += f", and the median of CLEVER / distance is {row.median_ratio:.2f} ({kind})"
        parts.append(text)
    if failed:
        verdict = "CLEVER cannot be trusted here"
    elif all(row.value == 1 for row in shares):
        verdict = "No score contradicts CLEVER as a lower bound here"
    else:
        needed = ", ".join(sorted({f"{row.threshold:.0%}" for row in shares if row.threshold is not None}))
        verdict = f"CLEVER is a lower bound for most images here, and wrong for some (required: {needed} of images)"
    return f"{verdict}: {'; '.join(parts)}."


def _attack(results: Results, rows: Sequence[Row]) -> str:
    texts = []
    for feed, good, bad in (
        ("converged", "the attacks have converged", "the attacks have not converged"),
        ("informative_gradients", "an attack without gradients found nothing much nearer", "the gradients are masked"),
    ):
        found = [row for row in _judged(rows) if row.feeds == feed and row.model == results.model]
        if found:
            images = min(row.images or 0 for row in found)
            text = good if all(row.outcome == "passed" for row in found) else bad
            texts.append(f"{text} ({images} images)" if images else text)
    return f"Of {results.model}, {' and '.join(texts)}." if texts else ""


def _suite(rows: Sequence[Row]) -> str:
    bad = [row for row in rows if row.concern == "suite" and row.outcome == "failed"]
    return "" if not bad else f"A number of this suite is wrong, not the model: {'; '.join(row.title for row in bad)}."


def worst_images(results: Results, row: Row) -> list[int]:
    """Dataset indices of the images to look at for a property, the worst first.

    These are the images that its test named with `measured(worst=[...])`. For a property that is tested image by image,
    they are the images that went wrong.
    """
    return worst_images_in(results.records, row)


def worst_images_in(records: Iterable[Record], row: Row) -> list[int]:
    """The same as `worst_images`, from the records of a run."""
    tests = set(row.tests)
    images: list[object] = []
    for record in records:
        if record.test in tests:
            worst = read(Measured, record.values).worst
            images += [record.about.get("image")] if worst is None else worst
    return [image for image in dict.fromkeys(images) if type(image) is int][:MAX_WORST_IMAGES]
