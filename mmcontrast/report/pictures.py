"""Pictures inside of a page."""

from __future__ import annotations

import base64


def data_uri(picture: bytes) -> str:
    """A picture as a data URI; JPEG unless it starts like a PNG."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
