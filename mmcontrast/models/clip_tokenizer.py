"""CLIP's byte-pair encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_clip.tokenizer import SimpleTokenizer

from mmcontrast.models.token_packing import check_captions, pack
from mmcontrast.types import Tokens


class ClipTokenizer:
    """CLIP's byte-pair encoding (lower case, 49408 ids) as open_clip ships it."""

    kind = "clip"
    vocab_size = 49408
    pad_id = 0
    bos_id: int | None = 49406
    eos_id = 49407

    def __init__(self, context_length: int = 77) -> None:
        self.context_length = context_length
        self._bpe = SimpleTokenizer(context_length=context_length)

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """b captions to ids and mask (b, t), padded to the longest one."""
        check_captions(captions)
        ids = [[self.bos_id, *self._bpe.encode(caption), self.eos_id] for caption in captions]
        return pack(ids, self.context_length, self.pad_id, self.eos_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The (lower-case) text of ids, marks left out; padding behind the end mark too."""
        ids = list(ids)
        ids = ids[: ids.index(self.eos_id)] if self.eos_id in ids else ids
        return str(self._bpe.decode([i for i in ids if i != self.bos_id])).strip()

    def words(self) -> set[str]:
        """Whole words of the vocabulary, in lower case."""
        end = "</w>"
        words = (entry.removesuffix(end) for entry in self._bpe.encoder if entry.endswith(end))
        return {word for word in words if word.isascii() and word.isalpha() and word.islower()}

    def save(self, folder: Path) -> None:
        """Nothing to write: the vocabulary comes with open_clip."""

    @classmethod
    def load(cls, folder: Path, context_length: int) -> ClipTokenizer:
        """The inverse of `save`."""
        return cls(context_length)

    def __getstate__(self) -> dict[str, Any]:
        return {"context_length": self.context_length}  # the tables are quicker to make than to send

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
