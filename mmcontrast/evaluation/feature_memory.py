"""Features that several evaluations of one model share."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor

from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import EmbeddedImages


class FeatureMemory:
    """Features of the pictures, and those of the captions, that one encoder embedded last.

    A further task over the same pictures or captions takes them instead of embedding again: retrieval and zero-shot
    classification on one data set, say, or one task by several rules or prompts.
    """

    def __init__(self) -> None:
        self.origin: Hashable = None
        """What the next source was opened from: two splits may have the same name and row numbers."""
        self._images: tuple[Hashable, EmbeddedImages] | None = None
        self._texts: tuple[Hashable, Tensor] | None = None

    def images(self, source: PairSource, options: Hashable, embed: Callable[[], EmbeddedImages]) -> EmbeddedImages:
        """Those of the source, embedded with `options`; sources are the same if all their rows are."""
        key = (source.name, self.origin, source.columns.image, _rows(source), options)
        if self._images is None or self._images[0] != key:
            self._images = None  # before its successor needs the room
            self._images = key, embed()
        return self._images[1]

    def texts(self, captions: list[str], options: Hashable, embed: Callable[[], Tensor]) -> Tensor:
        """Those of the captions, embedded with `options`."""
        key = (tuple(captions), options)
        if self._texts is None or self._texts[0] != key:
            self._texts = None
            self._texts = key, embed()
        return self._texts[1]


def _rows(source: PairSource) -> tuple[tuple[str, int], ...]:
    """Which rows of which files a source has; rows without captions may be left out of one and not of the other."""
    places = range(len(source))
    if isinstance(source, RowSource):
        return tuple((source.file(i), source.row_number(i)) for i in places)
    return tuple((source.name, source.row_number(i)) for i in places)
