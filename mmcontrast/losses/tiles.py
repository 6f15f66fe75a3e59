"""The similarities of a batch, tile by tile: what a loss needs to know of a rectangle of pairs, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

TILE = {"cpu": 1024}
LARGE_TILE = 4096
"""Pictures and captions of a tile: on a CPU as many as stay in its caches, elsewhere as many as keep it busy."""

AllReduce = Callable[[Tensor, Literal["sum", "max"]], Tensor]


class Counts(Protocol):
    """What the pairs of r pictures with c captions count; None where nothing changes.

    All (r, c), or, where `where` is given, (k,): of the k pairs there, while all others count plainly.

    The pair of a row with its own column is none of a tile's business: it always is a positive, and never weighted.

    Attributes:
        log_weights: of each caption as a negative of each picture; -inf takes it out.
        text_log_weights: of each picture as a negative of each caption; the same tensor where both agree.
        positives: captions that are further targets of a picture, bool or weights from 0 to 1.
        text_positives: pictures that are further targets of a caption, likewise.
        where: (k,) different places in the flattened tile, or None.
    """

    @property
    def where(self) -> Tensor | None: ...  # noqa: D102
    @property
    def log_weights(self) -> Tensor | None: ...  # noqa: D102
    @property
    def text_log_weights(self) -> Tensor | None: ...  # noqa: D102
    @property
    def positives(self) -> Tensor | None: ...  # noqa: D102
    @property
    def text_positives(self) -> Tensor | None: ...  # noqa: D102


@dataclass(frozen=True)
class PairTile:
    """`Counts` as plain values."""

    log_weights: Tensor | None = None
    text_log_weights: Tensor | None = None
    positives: Tensor | None = None
    text_positives: Tensor | None = None
    where: Tensor | None = None


Tiles = Callable[[slice, slice, Tensor], Counts]
"""(pictures, captions, their cosines (r, c)) to what they count. Both are ranges of the *whole* batch; the cosines are
not to be changed, nor kept."""


def blocks(count: int, size: int) -> Iterator[slice]:
    """`count` things in runs of `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def tile_size(device: torch.device, size: int | None) -> int:
    """`size`, or what suits the device."""
    return TILE.get(device.type, LARGE_TILE) if size is None else size


def row_products(first: Tensor, second: Tensor, size: int) -> Tensor:
    """(n,) sums of the products of two (n, d) row by row, with memory for `size` rows at a time."""
    found = first.new_empty(len(first))
    for rows in blocks(len(first), size):
        found[rows] = (first[rows] * second[rows]).sum(1)
    return found


def own_pairs(tile: Tensor, rows: slice, columns: slice) -> Tensor | None:
    """View of the places in a tile where picture and caption are one pair, or None where there are none."""
    start, stop = max(rows.start, columns.start), min(rows.stop, columns.stop)
    if start >= stop:
        return None
    return tile[start - rows.start : stop - rows.start, start - columns.start : stop - columns.start].diagonal()


def not_weighted(tile: Tensor, logits: Tensor, positives: Tensor | None, own: tuple[slice, slice]) -> Tensor:
    """Weighted logits with the bare ones where a pair is a positive, in place."""
    if positives is not None:
        tile = torch.where(positives > 0, logits, tile)
    diagonal, bare = own_pairs(tile, *own), own_pairs(logits, *own)
    if diagonal is not None and bare is not None:
        diagonal.copy_(bare)
    return tile


def targets_of(positives: Tensor, like: Tensor, own: tuple[slice, slice]) -> Tensor:
    """Further targets as numbers, none in the places of own pairs."""
    targets = positives.to(like.dtype, copy=True)
    diagonal = own_pairs(targets, *own)
    if diagonal is not None:
        diagonal.zero_()
    return targets


def spread_out(counts: Counts, like: Tensor) -> Counts:
    """Counts of a few pairs as those of a whole tile."""
    if counts.where is None:
        return counts
    place = counts.where.long()

    def whole(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.zeros_like(like).view(-1).index_copy_(0, place, values.to(like.dtype)).view_as(like)

    log_weights, positives = whole(counts.log_weights), whole(counts.positives)
    agree = counts.text_log_weights is counts.log_weights, counts.text_positives is counts.positives
    return PairTile(
        log_weights,
        log_weights if agree[0] else whole(counts.text_log_weights),
        positives,
        positives if agree[1] else whole(counts.text_positives),
    )
