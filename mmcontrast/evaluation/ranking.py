"""Ranks of all positives, both ways, from one pass over tiles of similarities, exact to the last tie.

A tile is multiplied in float32, whose error has a bound. Only the scores within it of a positive's score are then
computed again, exactly (see `metrics.exact_units`): the ranks are those of exact arithmetic, whatever the tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmcontrast.evaluation import metrics

FIXED_POINT = 2**26
_ROWS_AT_A_TIME = 1 << 16
_BLOCK = 128
_EXACT_ELEMENTS = 1 << 22


class Ranking(NamedTuple):
    """What became of q queries.

    Attributes:
        ranks: (q,) int64, as `metrics.first_ranks`.
        precision: (q,) float64, as `metrics.average_precision_at_r`.
        r_precision: (q,) float64, as `metrics.r_precision`.
    """

    ranks: Tensor
    precision: Tensor
    r_precision: Tensor


def fixed_point(features: Tensor) -> Tensor:
    """(n, d) features to (n, d) int32: `metrics.exact_units` as multiples of 2^-26, in a quarter of its memory."""
    fixed = torch.empty(features.shape, dtype=torch.int32, device=features.device)
    for start in range(0, len(features), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        fixed[part] = (metrics.exact_units(features[part]) * FIXED_POINT).to(torch.int32)
    return fixed


def rank_both_ways(
    images: Tensor,
    texts: Tensor,
    positives: tuple[Tensor, Tensor],
    *,
    tile: int = 2048,
    progress: Callable[[int], object] | None = None,
) -> tuple[Ranking, Ranking]:
    """Rank the positives of each picture among all texts, and those of each text among all pictures.

    Memory is that of the arguments, of their copies in fixed point, and of a few tiles.

    Args:
        images: (n, d) features.
        texts: (m, d) features.
        positives: (p,) pictures and (p,) texts of all pairs that match, each pair once, at least one of each row.
        tile: pictures and texts of a tile; the results do not depend on it.
        progress: called with the number of pictures that are compared with all texts.
    """
    left, right = fixed_point(images), fixed_point(texts)
    picture, text = positives
    step = max(1, _EXACT_ELEMENTS // images.shape[1])
    scores = torch.cat([_exact(left, right, picture[p], text[p]) for p in _spans(len(picture), step)])
    # Of a sum of d products of float32 in any order, and of the rounding of both factors and of the threshold.
    margin = (images.shape[1] + 8) * 2.0**-24
    by_image = _Queries(picture, scores, len(left), margin)
    by_text = _Queries(text, scores, len(right), margin)
    with _full_float32(images.device):
        for rows in _spans(len(left), tile):
            block, room = left[rows].float() / FIXED_POINT**2, torch.empty(0)
            for columns in _spans(len(right), tile):
                part = _Tile(left, right, rows, columns, block, room)
                by_image.count(rows, columns.start, part.texts(), part.exact)
                by_text.count(columns, rows.start, part.images(), part.exact_by_text)
                room = part.scores
            if progress:
                progress(rows.stop - rows.start)
    return by_image.ranking(), by_text.ranking()


class _Queries:
    """The queries of one direction: their positives' scores, and how many of the gallery reach each of them.

    Attributes:
        positive: (q, w) float64 scores of the positives of each query, the best first; infinite behind the last.
        own: (q, w) how many positives of the query score at least as much.
        reached: (q, w) how many of the gallery do, so far.
        low, high: (q, w) float32 bounds: a score below `low` does not reach the positive, one from `high` on does.
    """

    def __init__(self, queries: Tensor, scores: Tensor, number: int, margin: float) -> None:
        self.sizes = queries.bincount(minlength=number)
        width = int(self.sizes.max())
        order = scores.argsort(descending=True)
        order = order[queries[order].argsort(stable=True)]
        queries = queries[order]
        nth = torch.arange(len(queries), device=queries.device) - (self.sizes.cumsum(0) - self.sizes)[queries]
        self.positive = torch.full((number, width), torch.inf, dtype=torch.float64, device=scores.device)
        self.positive[queries, nth] = scores[order]
        real = self.positive.isfinite()
        columns = [((self.positive >= column[:, None]) & real).sum(dim=1) for column in self.positive.T]
        self.own = torch.stack(columns, dim=1)
        self.reached = torch.zeros_like(self.own)
        self.low, self.high = (self.positive - margin).float(), (self.positive + margin).float()

    def count(self, span: slice, offset: int, gallery: _Blocks, exact: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Count in a part of the gallery.

        Args:
            span: the queries.
            offset: where in the gallery the part begins.
            gallery: the scores.
            exact: (p,) queries and (p,) places in the gallery to exact scores.
        """
        for nth, low in enumerate(self._wanted(span).T):
            query, block = (gallery.tops >= low[:, None]).nonzero(as_tuple=True)
            if not len(query):
                continue
            scores, own = gallery.pick(query, block), query + span.start
            reaches, may_reach = scores >= self.high[own, nth, None], scores >= self.low[own, nth, None]
            sure = _trues(reaches)
            reached = self.reached[:, nth]
            reached.index_add_(0, own, sure)
            doubtful = (_trues(may_reach) != sure).nonzero().squeeze(1)
            at, place = (may_reach[doubtful] & ~reaches[doubtful]).nonzero(as_tuple=True)
            if len(at):
                own, place = own[doubtful[at]], block[doubtful[at]] * gallery.size + place + offset
                reached.index_add_(0, own, (exact(own, place) >= self.positive[own, nth]).to(reached.dtype))

    def _wanted(self, span: slice) -> Tensor:
        """Lower bounds of what is still worth counting: a positive with as many rivals as positives earns nothing."""
        rivals = self.reached[span] - self.own[span]
        lost = rivals >= self.sizes[span, None]
        lost[:, 0] = False  # the rank of the best is wanted in any case
        return self.low[span].masked_fill(lost, torch.inf)

    def ranking(self) -> Ranking:
        """When the whole gallery is counted."""
        rivals = self.reached - self.own
        nth = torch.arange(1, rivals.shape[1] + 1, device=rivals.device)
        rank, sizes = nth + rivals, self.sizes[:, None]
        earns = (nth <= sizes) & (rank <= sizes)
        precision = torch.where(earns, nth / rank.double(), 0.0).sum(dim=1) / self.sizes
        r_precision = earns.sum(dim=1).double() / self.sizes
        return Ranking((1 + rivals[:, 0]).cpu(), precision.cpu(), r_precision.cpu())


class _Blocks(NamedTuple):
    """Scores of q queries in k blocks of the gallery.

    Attributes:
        tops: (q, k) the best of each block.
        size: b, places in a block.
        pick: (p,) queries and (p,) blocks to (p, b) scores.
    """

    tops: Tensor
    size: int
    pick: Callable[[Tensor, Tensor], Tensor]


class _Tile:
    """Scores of some pictures and some texts; `room` is a tile that is no longer needed."""

    def __init__(self, left: Tensor, right: Tensor, rows: slice, columns: slice, block: Tensor, room: Tensor) -> None:
        self.left, self.right, self.rows, self.columns = left, right, rows, columns
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        self.scores = room if room.shape == shape else block.new_empty(shape)
        torch.mm(block, right[columns].float().T, out=self.scores)  # the block is scaled for both factors
        self.exactly: Tensor | None = None

    def texts(self) -> _Blocks:
        """For the pictures as queries."""
        size = min(_BLOCK, self.scores.shape[1])
        padded = _padded(self.scores, (0, -self.scores.shape[1] % size))
        blocks = padded.view(len(padded), -1, size)
        return _Blocks(blocks.amax(dim=2), size, lambda query, block: blocks[query, block])

    def images(self) -> _Blocks:
        """For the texts as queries."""
        size = min(_BLOCK, self.scores.shape[0])
        padded = _padded(self.scores, (0, 0, 0, -self.scores.shape[0] % size))
        blocks = padded.view(-1, size, padded.shape[1])  # (k, b, texts)

        def pick(query: Tensor, block: Tensor) -> Tensor:
            if 4 * len(query) < blocks.shape[0] * blocks.shape[2]:
                return blocks[block, :, query]
            ordered = padded.T.contiguous()  # quicker to read when most of it is wanted
            return ordered.view(len(ordered), -1, size)[query, block]

        return _Blocks(blocks.amax(dim=1).T, size, pick)

    def exact(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """(p,) exact scores of pairs; of all of the tile at once where there are many, as between equal features."""
        if self.exactly is None and len(pictures) <= _EXACT_ELEMENTS // self.left.shape[1]:
            return _exact(self.left, self.right, pictures, texts)
        if self.exactly is None:
            self.exactly = _units(self.left[self.rows]) @ _units(self.right[self.columns]).T
        return self.exactly[pictures - self.rows.start, texts - self.columns.start]

    def exact_by_text(self, texts: Tensor, pictures: Tensor) -> Tensor:
        """As `exact`, for the texts as queries."""
        return self.exact(pictures, texts)


def _padded(scores: Tensor, missing: tuple[int, ...]) -> Tensor:
    """Whole blocks, filled up with what reaches nothing; torch copies even where nothing is missing."""
    return functional.pad(scores, missing, value=-torch.inf) if any(missing) else scores


def _units(fixed: Tensor) -> Tensor:
    return fixed.double() / FIXED_POINT


def _exact(left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (_units(left[i]) * _units(right[j])).sum(dim=1)


def _trues(mask: Tensor) -> Tensor:
    """How many of each row of (p, b) booleans are true; eight at a time, where torch would widen each to 64 bits."""
    if mask.shape[1] % 8 or mask.shape[1] // 8 > 255:
        return mask.sum(dim=1)
    return mask.view(torch.int64).sum(dim=1, keepdim=True).view(torch.uint8).sum(dim=1)


def _spans(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 are what they say: neither autocast nor TF32 may round their factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.inference_mode():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
