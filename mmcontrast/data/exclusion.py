"""Keys of rows that should not meet in a batch: same picture, same group, same caption."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmcontrast.data.keys import caption_key, text_key
from mmcontrast.data.rows import PairSource
from mmcontrast.types import NO_KEY, PairBatch

_ROW_FACTOR = np.int64(0x5851_F42D_4C95_7F2D)
MAX_KEYS = 32
"""Keys that a row can have at most; further ones are not looked at."""


def source_keys(source: PairSource, item_rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """(n, c) keys of all rows, NO_KEY where there are fewer than c; only those that recur in another row.

    Reads every caption once. Rows that share one are no negatives of each other, so having both in a batch is a
    waste of a place, and a group out of a cluster attracts them.

    Args:
        source: the rows.
        item_rows: (m,) row of each item, where an item is not a row: then the m items' keys, the row among them.
    """
    rows: list[int] = []
    keys: list[int] = []
    for i in range(len(source)):
        own = {caption_key(caption) for caption in source.captions(i)}
        group = source.group(i)
        if group is not None:
            own.add(text_key(group))
        rows += [i] * len(own)
        keys += own
    table = _recurring(np.array(rows, dtype=np.int64), np.array(keys, dtype=np.int64), len(source))
    if item_rows is None:
        return table
    return np.column_stack([_row_key(item_rows), table[item_rows]])


def _recurring(rows: NDArray[np.int64], keys: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """(n, c) table of the keys that stand in more than one row; `rows` ascends."""
    _, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    again = counts[group] > 1
    rows, keys = rows[again], keys[again]
    per_row = np.bincount(rows, minlength=n)
    column = np.arange(len(rows)) - (np.cumsum(per_row) - per_row)[rows]
    fits = column < MAX_KEYS
    table = np.full((n, min(int(per_row.max(initial=0)), MAX_KEYS)), NO_KEY, dtype=np.int64)
    table[rows[fits], column[fits]] = keys[fits]
    return table


def batch_keys(batch: PairBatch) -> NDArray[np.int64]:
    """(b, c + 2) keys of a batch's rows."""
    return np.column_stack([_row_key(batch.index.numpy()), batch.group_key.numpy(), batch.caption_keys.numpy()])


def _row_key(index: NDArray[np.int64]) -> NDArray[np.int64]:
    return (index + 1) * _ROW_FACTOR  # far from small numbers; from hashes, as good as always
