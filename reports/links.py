"""Places in the page that other places lead to."""

import hashlib
from urllib.parse import urlencode


def anchor(text: str, kind: str) -> str:
    """An id for a place in the page; names of models and tests may have anything in them."""
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def image_link(**wanted: str | int | None) -> str:
    """The address of the table of images, showing some of them."""
    return f"#images?{urlencode({name: value for name, value in wanted.items() if value is not None})}"
