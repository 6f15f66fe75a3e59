"""What captions and tokenizers say, without the libraries that train."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmcontrast.data import PairSource, PairStream, Row
from mmcontrast.models import DualEncoder

TOKENIZER_ROWS = 1_000_000
"""Rows of a stream that a SentencePiece vocabulary is learnt from; more do not change it."""


def all_captions(source: PairSource | PairStream) -> Iterator[str]:
    """Every caption of a source, without decoding a picture."""
    if isinstance(source, PairStream):
        for row in itertools.islice(source.steady(), TOKENIZER_ROWS):
            yield from row.captions if isinstance(row, Row) else ()
        return
    for i in range(len(source)):
        yield from source.captions(i)


def known_words(model: DualEncoder) -> set[str]:
    """Words that class names may be split into: those of the training captions, or the tokenizer's."""
    return set(model.extra.get("caption_words") or model.tokenizer.words())
