"""Pictures of an embedded data set as a page shows them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from mmcontrast.data import PairSource
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.preprocess import decode_image
from mmcontrast.report.gallery import THUMBNAIL_SIDE, encode_thumbnail

_MARKUP = 160
"""Bytes of markup around a picture."""


@dataclass
class Room:
    """Bytes that a part of a page may still take, and how many pictures found no room.

    Attributes:
        left: bytes.
        refused: pictures.
    """

    left: int
    refused: int = 0

    def take(self, size: int) -> bool:
        """Whether a picture of so many bytes still fits; if so, it is counted."""
        size = size * 4 // 3 + _MARKUP  # as base64
        if size > self.left:
            self.refused += 1
            return False
        self.left -= size
        return True


class Pictures:
    """Thumbnails, each decoded once a size.

    Args:
        data: of which they are.
        source: that `data` was embedded from.
        room: that the page has for them; None is without end.
    """

    def __init__(self, data: EmbeddedData, source: PairSource, room: Room | None = None) -> None:
        self.data, self.source, self.room = data, source, room
        self._made: dict[tuple[int, int], bytes] = {}

    def image(self, row: int) -> Image.Image:
        """The picture itself."""
        return decode_image(self.source.image(int(self.data.positions[row])))

    def thumbnail(self, row: int, side: int = THUMBNAIL_SIDE) -> bytes:
        """JPEG of picture `row` of the data, whether there is room or not."""
        if (row, side) not in self._made:
            self._made[row, side] = encode_thumbnail(self.image(row), side)
        return self._made[row, side]

    def __call__(self, row: int, side: int = THUMBNAIL_SIDE) -> bytes | None:
        """The same, or None once the room is used up."""
        made = self.thumbnail(row, side)
        return made if self.room is None or self.room.take(len(made)) else None

    def where(self, row: int) -> str:
        """Where the picture comes from, in words."""
        return f"row {self.source.row_number(int(self.data.positions[row])):,}"

    def class_name(self, label: int | None) -> str:
        """Of a label; "" without one."""
        names = self.data.label_names
        return "" if label is None else str(label) if names is None else names[label]
