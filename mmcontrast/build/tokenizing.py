"""Train a tokenizer on the captions of a data set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmcontrast.build.captions import all_captions
from mmcontrast.data import PairSource, open_source
from mmcontrast.errors import ModelError
from mmcontrast.models import SentencePieceTokenizer, save_tokenizer, train_sentencepiece

_NO_LIMIT = 1 << 20


def train_tokenizer(
    data: PairSource | str | Path,
    output: str | Path,
    vocab_size: int = 4000,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_columns: Sequence[str] | None = None,
    context_length: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a SentencePiece tokenizer on the captions of a data set and save it.

    Returns:
        A summary: captions, vocab_size, mean and longest caption in tokens.

    Raises:
        ModelError: the folder holds something already.
    """
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty: give another --output, or remove it")
    source = data
    if isinstance(source, str | Path):
        source = open_source(source, split=split, image_column=image_column, caption_columns=caption_columns)
    vocabulary = train_sentencepiece(all_captions(source), vocab_size, seed=seed)
    tokenizer = SentencePieceTokenizer(vocabulary, context_length)
    save_tokenizer(tokenizer, folder)
    lengths = caption_lengths(SentencePieceTokenizer(vocabulary, _NO_LIMIT), all_captions(source))
    return {
        "captions": len(lengths),
        "vocab_size": tokenizer.vocab_size,
        "mean_tokens": round(sum(lengths) / len(lengths), 2),
        "longest_tokens": max(lengths),
        "context_length": context_length,
        "truncated": sum(length > context_length for length in lengths),
    }


def caption_lengths(tokenizer: SentencePieceTokenizer, captions: Iterable[str]) -> list[int]:
    """Tokens of each caption, begin and end marks included."""
    lengths: list[int] = []
    captions = iter(captions)
    while chunk := list(itertools.islice(captions, 1024)):
        lengths += tokenizer(chunk).attention_mask.sum(dim=1).tolist()
    return lengths
