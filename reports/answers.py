"""What the numbers say in words: one answer for each part of the report, and where to look after a failure."""

from collections.abc import Callable, Mapping, Sequence

from reports.images import ImageRow, known
from reports.pictures import EACH
from reports.results import Results
from reports.rows import Row
from robustness_tests.harness.records import BAD

TIGHT, LOOSE = 0.7, 0.3
"""Medians of CLEVER / adversarial distance above which a score is called tight, and below which it says little."""


def answer(results: Results, part: str) -> str:
    """A part of the report in a sentence or two; empty where there is nothing to say."""
    rows = [row for row in results.properties if row.group == part]
    answers: dict[str, Callable[[Results, Sequence[Row]], str]] = {
        "requirement": _better,
        "since": _since,
        "trust": _trust,
    }
    return answers[part](results, rows) if part in answers else ""


def _better(results: Results, rows: Sequence[Row]) -> str:
    compared = [row for row in rows if row.p_value is not None and row.value is not None]
    if not compared or results.against is None:
        return ""
    better = [row for row in compared if row.outcome == "passed"]
    words = f"{len(better)} of {len(compared)} comparisons"
    if not better:
        return f"{results.model} is not better than {results.against} in any of {len(compared)} comparisons."
    measured = "; ".join(
        f"{_what(row)} {_number(row, row.value)} against {_number(row, row.reference_value)}" for row in better
    )
    return f"{results.model} is better than {results.against} in {words} on the same images: {measured}."


def _what(row: Row) -> str:
    return row.title.removeprefix("candidate beats reference in ")


def _number(row: Row, value: float | None) -> str:
    if value is None:
        return "beyond what attacks found"
    return f"{value:.1%}" if row.unit == "share" else f"{value:.4g}"


def _since(results: Results, rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.outcome != "skipped"]
    if not judged or results.baseline is None:
        return ""
    bad = [row for row in judged if row.outcome in BAD]
    last = f"{results.baseline['model']} of {results.baseline['finished'][:10]} ({results.baseline['file']})"
    if not bad:
        return f"None of {len(judged)} numbers has fallen by more than its tolerance since {last}."
    return f"{len(bad)} of {len(judged)} numbers have fallen by more than their tolerance since {last}."


def _trust(results: Results, rows: Sequence[Row]) -> str:
    return " ".join(filter(None, (_clever(results, rows), _attack(results, rows), _suite(rows))))


def _clever(results: Results, rows: Sequence[Row]) -> str:
    shares = [
        row
        for row in rows
        if row.property_name == "test_share_of_clever_below_distance" and row.model == results.model and row.images
    ]
    if not shares:
        return ""
    parts = []
    for row in shares:
        above = round((1 - (row.value or 0.0)) * (row.images or 0))
        text = f"in {row.norm} {above} of {row.images} scores of {row.model} are above the adversarial distance"
        if row.median_ratio is not None:
            kind = "tight" if row.median_ratio >= TIGHT else "loose" if row.median_ratio >= LOOSE else "says little"
            text += f", and the median score is {row.median_ratio:.2f} of it ({kind})"
        parts.append(text)
    if any(row.outcome in BAD for row in shares):
        verdict = "CLEVER cannot be trusted here"
    elif all(row.value == 1 for row in shares):
        verdict = "CLEVER can be read as a lower bound here"
    else:
        needed = ", ".join(sorted({f"{row.threshold:.0%}" for row in shares if row.threshold is not None}))
        verdict = f"CLEVER is a lower bound for most images here, and wrong for some (needed: for {needed})"
    return f"{verdict}: {'; '.join(parts)}."


def _attack(results: Results, rows: Sequence[Row]) -> str:
    texts = []
    for name, good, bad in (
        ("test_attack_has_converged", "the attacks have converged", "the attacks have not converged"),
        ("test_gradients_are_informative", "the gradients are not masked", "the gradients are masked"),
    ):
        found = [row for row in rows if row.property_name == name and row.model == results.model]
        judged = [row for row in found if row.outcome != "skipped"]
        if judged:
            texts.append(good if all(row.outcome == "passed" for row in judged) else bad)
    return f"Of {results.model}, {' and '.join(texts)}." if texts else ""


FOR_EVERY_SUITE = (
    "test_adversarial_example_is_real",
    "test_anchored_clever_below_distance",
    "test_certified_below_distance",
    "test_exact_within_bracket",
    "test_no_perturbation_within_certified_radius",
)
"""Properties that fail only if a number of this suite is wrong."""


def _suite(rows: Sequence[Row]) -> str:
    bad = [row for row in rows if row.property_name in FOR_EVERY_SUITE and row.outcome in BAD]
    return "" if not bad else f"A number of this suite is wrong, not the model: {'; '.join(row.title for row in bad)}."


def culprits(results: Results, row: Row) -> list[int]:
    """Dataset indices of the images that a failed property is best understood on, the worst first."""
    for record in results.records:
        if record.test in row.tests and record.values.get("misclassified"):
            return list(record.values["misclassified"])[:EACH]
        if record.test in row.tests and "shares" in record.values:
            shares = record.values["shares"]
            return sorted(range(len(shares)), key=shares.__getitem__)[:EACH]
    mine = [image for image in results.images if image.model == row.model and row.norm in (None, image.norm)]
    failed = [image for image in mine if image.verdict == "failed"]
    order = _order(results, row)
    if failed and row.property_name != "test_robust_accuracy":
        mine = failed
    worst = sorted((image for image in mine if order(image) is not None), key=lambda image: order(image) or 0.0)
    return [image.image for image in worst[:EACH]]


def _order(results: Results, row: Row) -> Callable[[ImageRow], float | None]:
    """What makes an image a bad one for this property: the smaller, the worse; None if it says nothing about it."""
    if "clever" in row.property_name:
        return lambda image: -image.ratio if image.ratio is not None else None
    if row.reference is not None and row.p_value is not None:
        theirs = {(one.norm, one.image): one.distance for one in results.images if one.model == row.reference}
        return lambda image: _loss(image, theirs)
    if row.group == "since" and results.baseline is not None:
        last = {(one["norm"], one["image"]): one["distance"] for one in results.baseline["images"]}
        return lambda image: _loss(image, last)
    return lambda image: image.distance if known(image.distance) else None


def _loss(image: ImageRow, others: Mapping[tuple[str, int], float | None]) -> float | None:
    """How much smaller the distance is than another one of the same image."""
    other = others.get((image.norm, image.image))
    return image.distance - other if image.distance and other else None
