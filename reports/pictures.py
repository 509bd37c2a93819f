"""Images to look at: least robust, wrong scores, largest losses; each as clean, adversarial and difference image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports.images import ImageRow, known
from robustness_tests.harness.run import Run

if TYPE_CHECKING:
    # Every run of pytest imports this module where the suite is installed, but few runs need numpy.
    import numpy as np
    from numpy.typing import NDArray

EACH = 3
"""Images for each reason and norm."""

MAX_SIDE = 96
"""Longest side in pixels: larger images are shrunk, so that the report stays small."""


@dataclass(frozen=True)
class Picture:
    """An image to look at.

    Attributes:
        reason: why: one of `REASONS`.
        model: the model that it is about.
        norm: norm of the perturbation.
        image: dataset index.
        clean: PNG in base64.
        adversarial: PNG in base64, the nearest image that the model puts into another class.
        difference: PNG in base64: grey is no change, white is a change of +`scale`, black of -`scale`.
        scale: the largest change of any value.
    """

    reason: str
    model: str
    norm: str
    image: int
    clean: str
    adversarial: str
    difference: str
    scale: float


REASONS = {
    "named above": "Images that the violated properties name.",
    "least robust": "Correctly classified images with the smallest adversarial distances of the candidate.",
    "largest violations": "CLEVER scores of either model that exceed the adversarial distance by the largest factors.",
    "largest losses": "Images that both models classify correctly, but whose distance is smaller for the candidate.",
}


def choose(run: Run, rows: Sequence[ImageRow], named: Iterable[int] = ()) -> list[tuple[str, ImageRow]]:
    """Choose the images to look at, each with its reason: first the `named` ones, then the worst for each reason."""
    of_reference = {(row.norm, row.image): row.reach for row in rows if row.model == run.against}

    def loss(row: ImageRow) -> float:
        theirs = of_reference.get((row.norm, row.image))
        return (theirs or 0.0) - (row.distance or 0.0)

    ours = [row for row in rows if row.model == run.model and known(row.distance)]
    violations = [row for row in rows if row.clever_verdict == "xfailed" and row.ratio is not None]
    losses = [row for row in ours if loss(row) > 0] if run.against != run.model else []
    orders: list[tuple[str, list[ImageRow], Callable[[ImageRow], float]]] = [
        ("least robust", ours, lambda row: row.distance or 0.0),
        ("largest violations", violations, lambda row: -(row.ratio or 0.0)),
        ("largest losses", losses, lambda row: -loss(row)),
    ]
    by_image = {(row.norm, row.image): row for row in rows if row.model == run.model}
    wanted = [by_image[norm, image] for image in named for norm in run.norms if (norm, image) in by_image]
    return [("named above", row) for row in wanted] + [
        (reason, row)
        for reason, some, order in orders
        for norm in run.norms
        for row in sorted((row for row in some if row.norm == norm), key=order)[:EACH]
    ]


def pictures(run: Run, rows: Sequence[ImageRow], named: Iterable[int] = ()) -> list[Picture]:
    """Draw the chosen images; leave out those whose stored measurements are missing."""
    found = ((reason, row, _read(run.store, row.stored_at)) for reason, row in choose(run, rows, named))
    return [_picture(reason, row, *pair) for reason, row, pair in found if pair is not None]


def _read(folder: Path, stored_at: str | None) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    if not stored_at:
        return None
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    name, _, row = stored_at.rpartition("#")
    try:
        with safe_open(folder / name, "numpy") as stored:
            clean, adversarial = (stored.get_slice(column)[int(row)] for column in ("clean", "adversarial"))
    except (OSError, SafetensorError):
        return None
    return clean, adversarial


def _picture(reason: str, row: ImageRow, clean: NDArray[np.float32], adversarial: NDArray[np.float32]) -> Picture:
    import numpy as np  # noqa: PLC0415

    change = adversarial.astype(np.float64) - clean
    scale = float(np.abs(change).max())
    difference = 0.5 + 0.5 * change / scale if scale else np.full_like(change, 0.5)
    return Picture(
        reason=reason,
        model=row.model,
        norm=row.norm,
        image=row.image,
        clean=png(clean),
        adversarial=png(adversarial),
        difference=png(difference),
        scale=scale,
    )


def png(pixels: NDArray[np.floating]) -> str:
    """An image, shape (C, H, W), values in [0, 1], as PNG in base64; the mean of the channels unless there are 1 or 3.

    Example:
        >>> import numpy as np
        >>> png(np.zeros((1, 2, 2)))[:8]
        'iVBORw0K'
    """
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    shown = pixels if len(pixels) in (1, 3) else pixels.mean(axis=0, keepdims=True)
    values = np.rint(shown * 255).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
    factor = MAX_SIDE / max(image.size)
    if factor < 1:
        image = image.resize([max(1, math.floor(side * factor)) for side in image.size], Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def of_reason(reason: str, found: Iterable[Picture]) -> list[Picture]:
    """The pictures that were chosen for a reason, in order."""
    return [picture for picture in found if picture.reason == reason]
