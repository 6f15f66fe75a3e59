"""Any tokenizer of transformers, by local folder or Hub name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import transformers

from mmcontrast.errors import ModelError
from mmcontrast.models.token_packing import check_captions, pack
from mmcontrast.models.towers import one_line
from mmcontrast.models.transformers_config import quiet_transformers
from mmcontrast.types import Tokens

Cleaning = Literal["whitespace", "lower", "canonicalize"]
_CLEANING_FILE = "cleaning.json"
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
        cleaning: what open_clip does to a caption before this tokenizer: mends broken Unicode and HTML entities and
            joins white space ("whitespace"), and puts it in lower case ("lower"), without punctuation
            ("canonicalize"); None leaves it as it is.
        blank_end: the end mark becomes id 0, as open_clip's `strip_sep_token` has it (CLIPA).

    Raises:
        ModelError: it cannot be loaded, has no end mark, or turns plain captions into nothing or unknowns.
    """

    kind = "transformers"

    def __init__(
        self, name: str | Path, context_length: int, cleaning: Cleaning | None = None, blank_end: bool = False
    ) -> None:
        if cleaning is not None and cleaning not in get_args(Cleaning):
            raise ModelError(
                f"tokenizer {str(name)!r}: no cleaning {cleaning!r}; choose {', '.join(get_args(Cleaning))}"
            )
        try:
            with quiet_transformers():
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
        except Exception as error:  # network, missing files, broken JSON, missing libraries
            raise ModelError(f"tokenizer {str(name)!r} cannot be loaded: {one_line(error)}") from error
        tokenizer: Any = self._tokenizer
        self.context_length = context_length
        self.cleaning = cleaning
        self._end = self._first_id(str(name), "an end mark", tokenizer.eos_token_id, tokenizer.sep_token_id)
        self.blank_end = blank_end
        self.eos_id = 0 if blank_end else self._end
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
        if self.cleaning is not None:
            from open_clip.tokenizer import get_clean_fn  # only its checkpoints need it

            captions = [get_clean_fn(self.cleaning)(caption) for caption in captions]
        # verbose=False: it would warn of its own maximum length, while cutting and counting is ours.
        rows = self._tokenizer(list(captions), verbose=False)["input_ids"]
        rows = [row if row and row[-1] == self._end else [*row, self._end] for row in rows]
        return [[0 if i == self._end else i for i in row] for row in rows] if self.blank_end else rows

    def marks_its_end(self) -> bool:
        """Whether the tokenizer itself sets the end mark (else it is added here), and pads on the right."""
        rows = self._tokenizer(list(_PROBES), verbose=False)["input_ids"]
        return self._tokenizer.padding_side == "right" and all(row and row[-1] == self._end for row in rows)

    @property
    def gives_mask(self) -> bool:
        """Whether transformers itself would hand an attention mask on to the model."""
        return "attention_mask" in self._tokenizer.model_input_names

    @property
    def longest(self) -> int:
        """Tokens of the longest caption by the tokenizer's own account; a huge number where it names none."""
        return int(self._tokenizer.model_max_length)

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
        if self.cleaning is not None:  # only open_clip's checkpoints have either
            values = {"cleaning": self.cleaning, "blank_end": self.blank_end}
            (folder / _CLEANING_FILE).write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, context_length: int) -> TransformersTokenizer:
        """The inverse of `save`."""
        file = folder / _CLEANING_FILE
        return cls(folder, context_length, **(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}))


def _plain(words: Any) -> set[str]:
    return {word.lower() for word in words if word.isalpha()}
