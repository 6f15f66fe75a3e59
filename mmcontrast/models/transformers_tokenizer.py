"""Any tokenizer of transformers, by local folder or Hub name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from mmcontrast.errors import ModelError
from mmcontrast.models.token_packing import check_captions, pack
from mmcontrast.models.towers import one_line
from mmcontrast.models.transformers_config import quiet_transformers
from mmcontrast.types import Tokens

# One plain caption each in several scripts: a sound vocabulary can spell at least one of them.
_PROBES = (
    "a brown dog runs over the grass",
    "zwei Kinder spielen am Strand",
    "一只狗在草地上跑",
    "犬が芝生の上を走っている",
    "un perro corre por la hierba",
)


class TransformersTokenizer:
    """A transformers tokenizer with its own begin and end marks; an end mark is added where it sets none.

    Args:
        name: local folder or Hub name.
        context_length: tokens of the longest caption, marks included.

    Raises:
        ModelError: it cannot be loaded, has no end mark, or turns plain captions into nothing or unknowns.
    """

    kind = "transformers"

    def __init__(self, name: str | Path, context_length: int) -> None:
        try:
            with quiet_transformers():
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
        except Exception as error:  # network, missing files, broken JSON, missing libraries
            raise ModelError(f"tokenizer {str(name)!r} cannot be loaded: {one_line(error)}") from error
        tokenizer: Any = self._tokenizer
        self.context_length = context_length
        self.eos_id = self._first_id(str(name), "an end mark", tokenizer.eos_token_id, tokenizer.sep_token_id)
        self.pad_id = self._first_id(str(name), "padding", tokenizer.pad_token_id, self.eos_id)
        self.bos_id = next((i for i in (tokenizer.bos_token_id, tokenizer.cls_token_id) if i is not None), None)
        self.vocab_size = max([len(tokenizer) - 1, *tokenizer.get_vocab().values()]) + 1
        self._check(str(name))

    @staticmethod
    def _first_id(name: str, what: str, *ids: int | None) -> int:
        for value in ids:
            if value is not None:
                return int(value)
        raise ModelError(f"tokenizer {name!r} has no id for {what} (eos or sep token)")

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """b captions to ids and mask (b, t), padded to the longest one."""
        check_captions(captions)
        return pack(self._encode(captions), self.context_length, self.pad_id, self.eos_id)

    def _encode(self, captions: Sequence[str]) -> list[list[int]]:
        # verbose=False: it would warn of its own maximum length, while cutting and counting is ours.
        rows = self._tokenizer(list(captions), verbose=False)["input_ids"]
        return [row if row and row[-1] == self.eos_id else [*row, self.eos_id] for row in rows]

    def _check(self, name: str) -> None:
        """Refuse a vocabulary that was lost on loading, as happens to SentencePiece files without any message."""
        marks = {self.pad_id, self.eos_id, self.bos_id}
        for row in self._encode(_PROBES):
            pieces = self._tokenizer.convert_ids_to_tokens([i for i in row if i not in marks])
            unknown = self._tokenizer.unk_token
            told = [p for p in pieces if p != unknown and any(character.isalnum() for character in p)]
            if pieces and 2 * len(told) >= len(pieces):
                return
        raise ModelError(
            f"tokenizer {name!r} turns plain captions into nothing or unknown tokens: its vocabulary was not "
            "loaded (a SentencePiece .model file needs model.tokenizer.kind: sentencepiece)"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, marks left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def words(self) -> set[str]:
        """Whole words of the vocabulary, in lower case (WordPiece, byte-level BPE, Metaspace, or CLIP's BPE)."""
        entries = list(self._tokenizer.get_vocab())
        for marker in ("▁", "Ġ"):  # before each word
            if sum(entry.startswith(marker) for entry in entries) > len(entries) // 20:
                return _plain(entry[1:] for entry in entries if entry.startswith(marker))
        if sum(entry.endswith("</w>") for entry in entries) > len(entries) // 20:
            return _plain(entry.removesuffix("</w>") for entry in entries if entry.endswith("</w>"))
        return _plain(entry for entry in entries if not entry.startswith("##"))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files into an existing folder."""
        self._tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(cls, folder: Path, context_length: int) -> TransformersTokenizer:
        """The inverse of `save`."""
        return cls(folder, context_length)


def _plain(words: Any) -> set[str]:
    return {word.lower() for word in words if word.isalpha()}
