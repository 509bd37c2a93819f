"""What a look of `--images auto` has decided, and whether the next one can change the verdict."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reports.rows import Row, property_docs
from robustness_tests.harness.looks import Looks
from robustness_tests.harness.metric import metrics_among
from robustness_tests.harness.records import BAD
from robustness_tests.harness.run import Run


def goes_on(rows: Iterable[Row], run: Run, exit_status: int) -> bool:
    """Whether the next look can change the verdict of a complete run.

    It can if this look leaves a requirement open that the next one measures on more images, and if nothing else failed.
    """
    rows = list(rows)
    still_open = [row for row in rows if row.is_open and _grows(row, run)]
    failed = [row for row in rows if row.outcome in BAD]
    if exit_status == 1 and (not failed or any(row not in still_open for row in failed)):
        return False
    return bool(still_open) and exit_status in (0, 1)


def _grows(row: Row, run: Run) -> bool:
    """Whether the next look measures a property on more images: some metrics are for the first 20 only."""
    if run.looks is None or run.looks.next is None:
        return False
    later = replace(run, images=run.looks.next.images)
    doc = property_docs().get(row.property_name)
    if doc is None:
        return True
    metrics = metrics_among(doc.asks_for)
    if not metrics and "images" not in doc.asks_for:  # it is about clean images
        return later.accuracy_images > run.accuracy_images
    return all(one.images(later) > one.images(run) for one in metrics)


def said_of(looks: Looks, rows: Sequence[Row], *, more: bool) -> str:
    """What a look has decided, in a sentence."""
    look = f"Look {looks.number + 1} of {len(looks.sizes)}"
    still_open = "; ".join(row.title for row in rows if row.is_open)
    if more and looks.next:
        return f"{look}: the next one has {looks.next.images:,} images. Still open: {still_open}."
    if still_open:
        return f"{look} is the last: the measured value decides what is still open: {still_open}."
    return f"{look} is the last: no interval and no p-value leaves a requirement open."
