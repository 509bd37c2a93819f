"""The part "Images to look at" of the page: one card per image, with its attacks, and its bounds in every norm."""

import itertools
from collections.abc import Sequence
from typing import Any

from reports.image_table import class_name
from reports.images import ImageRow
from reports.links import anchor, image_link
from reports.pictures import REASONS, Picture
from reports.results import Results


def image_cards(results: Results) -> list[dict[str, Any]]:
    """The cards by reason."""
    groups = []
    for reason, caption in REASONS.items():
        found = [picture for picture in results.pictures if picture.reason == reason]
        cards = [_card(results, list(same)) for _, same in itertools.groupby(sorted(found, key=_subject), key=_subject)]
        # In the order of the first picture of each: the worst first.
        order = list(dict.fromkeys(map(_subject, found)))
        cards.sort(key=lambda card: order.index(card["subject"]))
        if cards:
            groups.append({"title": reason.capitalize(), "caption": caption, "cards": cards})
    return groups


def _subject(picture: Picture) -> tuple[str, int]:
    return (picture.model, picture.image)


def card_link(results: Results, model: str | None, image: int, norm: str | None) -> str:
    """Link to an image: to its first card, or to its rows in the table of images if it has no card."""
    for picture in results.pictures:
        if _subject(picture) == (model, image):
            return f"#{_anchor(picture)}"
    return image_link(norm=norm, image=image)


def _anchor(picture: Picture) -> str:
    return anchor(f"{picture.reason} {picture.model} {picture.image}", "look")


def _card(results: Results, pictures: Sequence[Picture]) -> dict[str, Any]:
    first = pictures[0]
    names = results.run.get("class_names") or []
    rows = {row.key: row for row in results.images if row.image == first.image}

    def seen(number: int | None, confidence: float | None) -> str:
        sure = "" if confidence is None else f", confidence {confidence:.1%}"
        return f"{class_name(names, number)}{sure}"

    shots = []
    for picture in pictures:
        row = rows[picture.model, picture.norm, picture.image]
        clean = seen(row.clean_class, row.clean_confidence)
        attacked = seen(row.adversarial_class, row.adversarial_confidence)
        shots.append(
            {"png": picture.clean, "text": f"clean: {clean}", "alt": f"clean image {picture.image:05d}, class {clean}"}
        )
        if row.status == "misclassified":
            break  # in every norm: there is no attack
        shots += [
            {
                "png": picture.adversarial,
                "text": f"adversarial in {picture.norm}: {attacked}",
                "alt": f"adversarial image {picture.image:05d} in {picture.norm}, class {attacked}",
            },
            {
                "png": picture.difference,
                "text": f"difference, \N{PLUS-MINUS SIGN}{picture.scale:.3g}",
                "alt": f"difference of both, at most {picture.scale:.3g}",
            },
        ]
    label = next(iter(rows.values())).label
    return {
        "subject": _subject(first),
        "anchor": _anchor(first),
        "title": f"Image {first.image:05d}, label {class_name(names, label)}",
        "subtitle": f"attack on {first.model}",
        "href": image_link(image=first.image),
        "shots": shots,
        "columns": BOUNDS,
        "bounds": [
            (model, norm, *_bounds(known))
            for model in results.models
            for norm in results.norms
            if (known := rows.get((model, norm, first.image)))
        ],
    }


BOUNDS = ("model", "norm", "certified", "CLEVER", "adversarial")


def _bounds(row: ImageRow) -> tuple[str, str, str]:
    if row.status == "misclassified":
        return ("", "", "0 (misclassified)")
    nothing = "none found" if row.status == "censored" else ""
    # A score at the radius of its ball only means "at least the radius".
    score = (
        f"\N{GREATER-THAN OR EQUAL TO} {_text(row.clever)}" if row.clever_status == "saturated" else _text(row.clever)
    )
    return (_text(row.certified), score, _text(row.distance) or nothing)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
