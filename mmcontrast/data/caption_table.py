"""All captions of a source as token ids, made once: batches then only pick and pad them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from mmcontrast.data.rows import PairSource
from mmcontrast.types import Tokens

Tokenize = Callable[[list[str]], Tokens]
CHUNK = 4096
"""Captions that are tokenized at a time."""


class CaptionTable:
    """Token ids of m captions of n rows: 2 bytes a token (4 with over 65,536 different ids) and 9 a caption.

    Args:
        ids: of all captions one after another, cut to the context length.
        offsets: (m + 1,) where each caption's ids begin.
        cut: (m,) bool, captions that were cut.
        first: (n + 1,) number of the first caption of each row.
        pad_id: fills up.
    """

    def __init__(
        self,
        ids: NDArray[np.integer],
        offsets: NDArray[np.int64],
        cut: NDArray[np.bool_],
        first: NDArray[np.int64],
        pad_id: int,
    ) -> None:
        self.ids, self.offsets, self.cut, self.first, self.pad_id = ids, offsets, cut, first, pad_id

    def __len__(self) -> int:
        return len(self.cut)

    def tokens(self, rows: Sequence[int], numbers: Sequence[int]) -> Tokens:
        """Caption `numbers[i]` of row `rows[i]`, for b of them; just what the tokenizer makes of these captions."""
        captions = self.first[np.asarray(rows)] + np.asarray(numbers)  # (b,)
        starts, stops = self.offsets[captions], self.offsets[captions + 1]
        flat = np.concatenate(
            [self.ids[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        )
        return Tokens.padded(flat, stops - starts, self.pad_id, int(self.cut[captions].sum()))


def tokenize_source(
    source: PairSource,
    tokenize: Tokenize,
    *,
    vocab_size: int,
    pad_id: int,
    advance: Callable[[int], None] | None = None,
) -> CaptionTable:
    """The table of all captions of a source.

    Args:
        source: the pairs.
        tokenize: pads on the right, and cuts captions over its context length.
        vocab_size: number of different ids.
        pad_id: of the tokenizer.
        advance: told how many more captions are done.
    """
    kind = np.uint16 if vocab_size <= 2**16 else np.int32
    ids: list[NDArray[np.integer]] = []
    lengths: list[NDArray[np.int64]] = []
    cut: list[NDArray[np.bool_]] = []
    counts: list[int] = []
    for chunk in _chunks(source, counts):
        tokens = tokenize(chunk)
        mask = tokens.attention_mask.numpy().astype(bool)
        ids.append(tokens.input_ids.numpy()[mask].astype(kind))
        lengths.append(mask.sum(axis=1))
        cut.append(_which_are_cut(chunk, lengths[-1], tokens.truncated, tokenize))
        if advance is not None:
            advance(len(chunk))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    first = np.fromiter(accumulate(counts, initial=0), dtype=np.int64)
    return CaptionTable(np.concatenate(ids), offsets, np.concatenate(cut), first, pad_id)


def _chunks(source: PairSource, counts: list[int]) -> Iterator[list[str]]:
    """Captions of all rows, a chunk at a time; `counts` gets the number of each row's."""
    chunk: list[str] = []
    for row in range(len(source)):
        captions = source.captions(row)
        counts.append(len(captions))
        chunk += captions
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _which_are_cut(
    captions: list[str], lengths: NDArray[np.int64], truncated: int, tokenize: Tokenize
) -> NDArray[np.bool_]:
    """Which of some captions were cut: the tokenizer only says how many, so the longest are asked for one by one."""
    cut = np.zeros(len(captions), dtype=bool)
    longest = np.flatnonzero(lengths == lengths.max())[: len(lengths) if truncated else 0]
    if len(longest) == truncated:
        cut[longest] = True
        return cut
    for position in longest:
        cut[position] = tokenize([captions[position]]).truncated > 0
    return cut
