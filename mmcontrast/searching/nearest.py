"""The k nearest of n features: exact, and the same whether faiss is there or not."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

SPARE = 32
"""Candidates beyond the k, whose order is decided anew: sums in float32 differ in their last bits."""
_CHUNK = 65536


def nearest(features: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest inner products, the greatest first; of equal ones the first row comes first.

    Args:
        features: (n, d) float32.
        query: (d,).
        k: 1 or more; of more than n, all n are returned.

    Returns:
        (k,) float64 scores and (k,) int64 positions.
    """
    query = query.float().contiguous()
    count = min(k + SPARE, len(features))
    if not count:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    faiss = _faiss()
    candidates = _by_torch(features, query, count) if faiss is None else _by_faiss(faiss, features, query, count)
    candidates = candidates.sort().values
    scores = (features[candidates].double() * query.double()).sum(dim=1)
    order = scores.argsort(descending=True, stable=True)[:k]
    return scores[order], candidates[order]


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except ImportError:
        return None


def _by_faiss(faiss: Any, features: Tensor, query: Tensor, count: int) -> Tensor:
    """(count,) candidates by a flat inner product over the features where they lie: nothing is copied."""
    _, positions = faiss.knn(query[None].numpy(), features.numpy(), count, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(positions[0])


def _by_torch(features: Tensor, query: Tensor, count: int) -> Tensor:
    """(count,) candidates, a part of the features at a time."""
    scores, positions = torch.empty(0), torch.empty(0, dtype=torch.int64)
    for start in range(0, len(features), _CHUNK):
        found = features[start : start + _CHUNK] @ query
        scores = torch.cat([scores, found])
        positions = torch.cat([positions, torch.arange(start, start + len(found))])
        best = scores.topk(min(count, len(scores))).indices
        scores, positions = scores[best], positions[best]
    return positions
