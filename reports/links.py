"""Anchors and links within the page."""

import hashlib
from urllib.parse import urlencode


def anchor(text: str, kind: str) -> str:
    """An id for a place in the page; names of models and tests may have anything in them."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def image_link(**wanted: str | int | None) -> str:
    """A link to the table of images, filtered and sorted as wanted."""
    return f"#images?{urlencode({name: value for name, value in wanted.items() if value is not None})}"
