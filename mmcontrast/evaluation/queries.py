"""Searches looked at query by query: what stood first, and how far the right answer was from the best wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.positives import PositiveKeys
from mmcontrast.evaluation.same_kind import share_a_key

Search = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(r,) queries to their (r, m) float64 cosines with the gallery, and (r, m) bool: which of it belongs to them.

What is no part of a query's gallery, as the query itself, has the cosine -inf.
"""
_ELEMENTS = 1 << 23


class Outcomes(NamedTuple):
    """What became of q queries.

    Attributes:
        queries: (q,) int64, those that have an answer in the gallery.
        ranks: (q,) int64 of the best-placed answer, from 1, ties against it.
        margins: (q,) float64 cosine of that answer less that of the best wrong one; infinite where nothing is wrong.
        first: (q,) int64, what stands first in the gallery: in a tie with an answer, something wrong.
    """

    queries: Tensor
    ranks: Tensor
    margins: Tensor
    first: Tensor


def captions_by_picture(data: EmbeddedData, keys: PositiveKeys) -> Search:
    """Pictures look for captions."""
    images, texts = metrics.exact_units(data.image_features), metrics.exact_units(data.text_features)

    def search(rows: Tensor) -> tuple[Tensor, Tensor]:
        own = PositiveKeys(keys.image[rows], keys.text)
        return images[rows] @ texts.T, own.image_queries(0, len(rows))

    return search


def pictures_by_caption(data: EmbeddedData, keys: PositiveKeys) -> Search:
    """Captions look for pictures."""
    images, texts = metrics.exact_units(data.image_features), metrics.exact_units(data.text_features)

    def search(rows: Tensor) -> tuple[Tensor, Tensor]:
        own = PositiveKeys(keys.image, keys.text[rows])
        return texts[rows] @ images.T, own.text_queries(0, len(rows))

    return search


def same_kind(features: Tensor, keys: Tensor) -> Search:
    """Rows of (n, d) features look for others that share one of their (n, c) keys."""
    units = metrics.exact_units(features)

    def search(rows: Tensor) -> tuple[Tensor, Tensor]:
        scores, positive = units[rows] @ units.T, share_a_key(keys[rows], keys)
        own = torch.arange(len(rows))
        scores[own, rows], positive[own, rows] = -torch.inf, False
        return scores, positive

    return search


def outcomes(search: Search, queries: Tensor, gallery: int) -> Outcomes:
    """Search for (q,) queries in a gallery of so many; those without an answer are left out."""
    found = []
    for rows in torch.split(queries, max(1, _ELEMENTS // max(1, gallery))):
        scores, positive = search(rows)
        answerable = positive.any(dim=1)
        rows, scores, positive = rows[answerable], scores[answerable], positive[answerable]
        if not len(rows):
            continue
        right = scores.masked_fill(~positive, -torch.inf).amax(dim=1)
        wrong, rival = scores.masked_fill(positive, -torch.inf).max(dim=1)
        first = torch.where(wrong >= right, rival, scores.argmax(dim=1))
        found.append(Outcomes(rows, metrics.first_ranks(scores, positive), right - wrong, first))
    if not found:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Outcomes(nothing, nothing, nothing.double(), nothing)
    return Outcomes(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def some(count: int, most: int, seed: int) -> Tensor:
    """(k,) int64 of 0..count-1, ascending: all of them, or `most` drawn at random."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values
