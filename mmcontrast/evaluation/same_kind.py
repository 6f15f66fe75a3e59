"""Retrieval within one modality: pictures by pictures, captions by captions; a query never finds itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, TaskResult, ranking_items
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import RECALL_KS, check_features, check_ks
from mmcontrast.types import NO_KEY

_CHUNK = 256


class _Found(NamedTuple):
    """The ranking of the (q,) `rows` that are queries."""

    rows: Tensor
    ranking: Ranking


def same_kind_metrics(
    features: Tensor, keys: Tensor, *, ks: Sequence[int] = RECALL_KS, strict: bool = True, chunk: int = _CHUNK
) -> tuple[Metrics, int]:
    """Find the rows that share a key with the query among all other rows.

    Args:
        features: (n, d), normalised here.
        keys: (n, c) int64, NO_KEY where a row has fewer than c.
        ks: of the recalls.
        strict: a k above n - 1, the gallery's size, is an error; otherwise that recall is None.
        chunk: queries that are scored at a time; the results do not depend on it.

    Returns:
        `recall@k`, `mean_rank`, `median_rank`, `map@r` and `r_precision` over the queries that have a positive, and
        how many have none and are left out.

    Raises:
        DataError: no two rows share a key.
    """
    found = _find(features, keys, ks, strict, chunk)
    return _summary(found, ks, len(features)), len(features) - len(found.rows)


def _find(features: Tensor, keys: Tensor, ks: Sequence[int], strict: bool, chunk: int = _CHUNK) -> _Found:
    check_features(features, "query")
    if len(keys) != len(features):
        raise DataError(f"{len(keys)} rows of keys for {len(features)} features")
    if strict:
        check_ks(ks, len(features) - 1, "others")
    units = metrics.exact_units(features)
    queries, ranks, average, precision = [], [], [], []
    for start in range(0, len(units), chunk):
        rows = torch.arange(start, min(start + chunk, len(units)))
        positive = share_a_key(keys[rows], keys)  # (chunk, n)
        positive[rows - start, rows] = False
        answerable = positive.any(dim=1)
        rows, positive = rows[answerable], positive[answerable]
        if not len(rows):
            continue
        scores = units[rows] @ units.T
        scores[torch.arange(len(rows)), rows] = -torch.inf
        queries.append(rows)
        ranks.append(metrics.first_ranks(scores, positive))
        at_r = metrics.precisions_at_r(scores, positive)
        average.append(at_r[0])
        precision.append(at_r[1])
    if not ranks:
        raise DataError("no two rows belong together: there is nothing to find")
    return _Found(torch.cat(queries), Ranking(torch.cat(ranks), torch.cat(average), torch.cat(precision)))


def _summary(found: _Found, ks: Sequence[int], rows: int) -> Metrics:
    ranks = found.ranking.ranks
    values: Metrics = {f"recall@{k}": metrics.hit_share(ranks, k) if k < rows else None for k in ks}
    values |= {"mean_rank": metrics.mean_rank(ranks), "median_rank": metrics.median_rank(ranks)}
    precisions = {"map@r": found.ranking.precision, "r_precision": found.ranking.r_precision}
    return values | {name: precision.mean().item() for name, precision in precisions.items()}


def same_kind_task(task: str, data: EmbeddedData, positives: str, ks: Sequence[int], strict: bool) -> TaskResult:
    """`image_to_image` or `text_to_text` on a data set with the positives of a rule."""
    pictures = task == "image_to_image"
    if pictures and positives == "id":
        raise DataError(f"{task}: by id no two pictures belong together: take --positives label, group or caption")
    keys = data.positive_keys(positives)
    features, own = (data.image_features, keys.image) if pictures else (data.text_features, keys.text[:, None])
    try:
        found = _find(features, own, ks, strict)
    except DataError as error:
        raise DataError(f"{data.name}: {task} with positives by {positives}: {error}") from None
    values, without = _summary(found, ks, len(features)), len(features) - len(found.rows)
    what = "pictures" if pictures else "captions"
    notes = [f"{task}: {without} {what} belong to no other by {positives} and are no queries"] if without else []
    if undefined := [name for name, value in values.items() if value is None]:
        notes.append(f"{task}: too few {what} for {', '.join(undefined)}")
    owners = found.rows if pictures else data.text_images[found.rows]
    return TaskResult(values, Details(ranking_items("", found.ranking, owners, values)), notes)


def share_a_key(queries: Tensor, gallery: Tensor) -> Tensor:
    """(q, c) and (n, c) keys to (q, n) bool."""
    found = torch.zeros(len(queries), len(gallery), dtype=torch.bool)
    for own in queries.T:
        for other in gallery.T:  # never (q, n, c) at once
            found |= (own[:, None] == other) & (own[:, None] != NO_KEY)
    return found
