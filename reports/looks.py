"""Images to look at, as they stand in the page."""

from typing import Any

from reports.image_table import class_name
from reports.images import ImageRow
from reports.links import image_link
from reports.pictures import REASONS, Picture
from reports.results import Results


def looks(results: Results) -> list[dict[str, Any]]:
    """The pictures by reason, each with what both models make of the image."""
    groups = []
    for reason, caption in REASONS.items():
        found = [picture for picture in results.pictures if picture.reason == reason]
        if found:
            cards = [_card(results, picture) for picture in found]
            groups.append({"title": reason.capitalize(), "caption": caption, "cards": cards})
    return groups


def _card(results: Results, picture: Picture) -> dict[str, Any]:
    rows = {row.key: row for row in results.images}
    mine = rows[picture.model, picture.norm, picture.image]
    names = results.run.get("class_names") or []

    def seen(number: int | None, confidence: float | None) -> str:
        sure = "" if confidence is None else f", confidence {confidence:.1%}"
        return f"{class_name(names, number)}{sure}"

    clean, attacked = (
        seen(mine.clean_class, mine.clean_confidence),
        seen(mine.adversarial_class, mine.adversarial_confidence),
    )
    return {
        "title": f"Image {picture.image:05d}, label {class_name(names, mine.label)}",
        "subtitle": f"attacked in {picture.norm}, {picture.model}",
        "href": image_link(image=picture.image),
        "shots": [
            {"png": picture.clean, "text": f"clean: {clean}", "alt": f"clean image {picture.image:05d}, class {clean}"},
            {
                "png": picture.adversarial,
                "text": f"adversarial: {attacked}",
                "alt": f"adversarial image {picture.image:05d}, class {attacked}",
            },
            {
                "png": picture.difference,
                "text": f"difference, \N{PLUS-MINUS SIGN}{picture.scale:.3g}",
                "alt": f"difference of both, at most {picture.scale:.3g}",
            },
        ],
        "columns": BOUNDS,
        "bounds": [
            (model, norm, *_bounds(row))
            for model in results.models
            for norm in results.norms
            if (row := rows.get((model, norm, picture.image)))
        ],
    }


BOUNDS = ("model", "norm", "certified", "CLEVER", "adversarial")


def _bounds(row: ImageRow) -> tuple[str, str, str]:
    if row.status == "misclassified":
        return ("", "", "0 (misclassified)")
    nothing = "none found" if row.status == "censored" else ""
    return (_text(row.certified), _text(row.clever), _text(row.distance) or nothing)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
