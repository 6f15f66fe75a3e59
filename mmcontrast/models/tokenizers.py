"""Tokenizers of all kinds behind one face; each is picklable, since it travels to the loader's workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mmcontrast.errors import ModelError
from mmcontrast.types import Tokens

_FILE = "mmcontrast_tokenizer.json"
_LONGEST_CONTEXT = 1 << 20


class Tokenizer(Protocol):
    """Strings in, `Tokens` out."""

    kind: str
    vocab_size: int
    pad_id: int

    @property
    def bos_id(self) -> int | None:
        """Begin mark, or None."""
        ...

    eos_id: int
    context_length: int

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """b captions to ids and mask (b, t), padded to the longest one; cut captions keep their end mark."""
        ...

    def words(self) -> set[str]:
        """Whole words of the vocabulary, in lower case."""
        ...

    def save(self, folder: Path) -> None:
        """Write the vocabulary into an existing folder."""
        ...


# Loaded on demand: a loader's worker that unpickles one kind should not import the libraries of all.
_PLACES = {
    "clip": ("clip_tokenizer", "ClipTokenizer"),
    "sentencepiece": ("sentencepiece_tokenizer", "SentencePieceTokenizer"),
    "transformers": ("transformers_tokenizer", "TransformersTokenizer"),
}


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write any tokenizer into `folder`, which is created."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    values = {"kind": tokenizer.kind, "context_length": tokenizer.context_length}
    (folder / _FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The inverse of `save_tokenizer`.

    Raises:
        ModelError: the folder holds no tokenizer of ours, or a damaged one.
    """
    path = Path(folder) / _FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        module, name = _PLACES[values["kind"]]
        cls: Any = getattr(import_module(f"mmcontrast.models.{module}"), name)
        context_length = int(values["context_length"])
        if not 3 <= context_length <= _LONGEST_CONTEXT:
            raise ValueError(f"context_length is {context_length}")
        tokenizer: Tokenizer = cls.load(Path(folder), context_length)
        return tokenizer
    except OSError as error:
        raise ModelError(f"no tokenizer in {folder}: {path.name} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {type(error).__name__}: {error}") from None
