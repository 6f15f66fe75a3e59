"""Answers queries over an index that is up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from mmcontrast.embedding import embed_texts
from mmcontrast.errors import DataError
from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import decode_image
from mmcontrast.searching.collection import Collection
from mmcontrast.searching.nearest import nearest
from mmcontrast.searching.query import Query
from mmcontrast.searching.update import Indexed

Say = Callable[[str], object]


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        score: cosine between its features, or those of `caption`, and the query's.
        name: path below the folder that was searched, or its row.
        path: its file; None where it is in a table.
        captions: of the picture.
        caption: the nearest one, where captions were searched; else None.
        position: in the collection.
    """

    score: float
    name: str
    path: Path | None
    captions: list[str]
    caption: str | None
    position: int


class Searcher:
    """Searches the pictures of a collection, or their captions.

    Args:
        encoder: the model.
        collection: what is searched.
        indexed: its features.
        captions: the m different captions of those pictures and their (m, d) features, if they are to be searched.

    Attributes:
        encoder, collection, indexed: as above.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        collection: Collection,
        indexed: Indexed,
        captions: tuple[list[str], Tensor] | None = None,
    ) -> None:
        self.encoder, self.collection, self.indexed = encoder, collection, indexed
        self._captions = captions
        self._owners: dict[str, list[int]] = {}
        self._most_captions = 0
        if captions is not None:
            self._owners, self._most_captions = _owners(collection, indexed)

    def __len__(self) -> int:
        return len(self.indexed.features)

    def search(self, query: Query, k: int = 12, say: Say | None = None) -> list[Hit]:
        """The k nearest pictures, the nearest first.

        Args:
            query: words or a picture.
            k: 1 or more.
            say: told where all pictures are shown since there are no more, and where the end of the words is not read.

        Raises:
            DataError: k is less than 1.
        """
        if k < 1:
            raise DataError(f"k = {k}: at least 1 picture must be asked for")
        if say is not None and k > len(self):
            say(f"there are {len(self)} pictures only, not {k}: all are shown")
        if say is not None and query.picture is None and (line := self.cut_off(query.words)) is not None:
            say(line)
        feature = self._embedded(query)
        if self._captions is not None:
            return self._by_captions(feature, self._captions, k)
        scores, rows = nearest(self.indexed.features, feature, k)
        positions = self.indexed.positions[rows].tolist()
        return [self._hit(score, at, None) for score, at in zip(scores.tolist(), positions, strict=True)]

    def cut_off(self, words: str) -> str | None:
        """A line that says so where the words are longer than what the model reads."""
        if not self.encoder.tokenizer([words]).truncated:
            return None
        length = self.encoder.tokenizer.context_length
        start = words if len(words) <= 40 else f"{words[:40]}..."
        return f"the query {start!r} is longer than the {length} tokens that the model reads: its end does not count"

    def picture(self, hit: Hit) -> Image.Image:
        """The picture itself, decoded.

        Raises:
            DataError: it cannot be decoded any more.
        """
        return decode_image(self.collection.source.image(hit.position))

    def _embedded(self, query: Query) -> Tensor:
        if query.picture is None:
            return embed_texts(self.encoder, [query.words])[0]
        return self.encoder.encode_image([query.picture])[0].float().cpu()

    def _by_captions(self, feature: Tensor, captions: tuple[list[str], Tensor], k: int) -> list[Hit]:
        texts, features = captions
        # So many captions that they belong to k pictures, however they are shared out.
        scores, rows = nearest(features, feature, k * self._most_captions)
        hits: dict[int, Hit] = {}
        for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
            for position in self._owners[texts[row]]:
                if position not in hits:
                    hits[position] = self._hit(score, position, texts[row])
        return list(hits.values())[:k]

    def _hit(self, score: float, position: int, caption: str | None) -> Hit:
        name, path = self.collection.names[position], self.collection.path(position)
        return Hit(score, name, path, self.collection.source.captions(position), caption, position)


def _owners(collection: Collection, indexed: Indexed) -> tuple[dict[str, list[int]], int]:
    """Pictures of each caption, and the most captions that a picture has."""
    owners: dict[str, list[int]] = {}
    most = 0
    for position in indexed.positions.tolist():
        own = dict.fromkeys(collection.source.captions(position))
        most = max(most, len(own))
        for caption in own:
            owners.setdefault(caption, []).append(position)
    return owners, most


def different_captions(collection: Collection, indexed: Indexed) -> list[str]:
    """All captions of the pictures that were indexed, each once.

    Raises:
        DataError: there is none.
    """
    captions = list(_owners(collection, indexed)[0])
    if not captions:
        raise DataError(f"{collection.source.name}: no captions to search: leave out --captions")
    return captions
