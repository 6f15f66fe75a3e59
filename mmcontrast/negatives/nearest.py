"""Nearest centroids of many points, piece by piece, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def pieces(x: Tensor, k: int, order: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
    """Start and float32 unit rows of pieces of x[order], so small that rows x k scores stay in a CPU's cache."""
    size = max(256, (1 << (26 if x.is_cuda else 20)) // k)
    for start in range(0, len(x) if order is None else len(order), size):
        rows = x[start : start + size] if order is None else x[order[start : start + size]]
        yield start, F.normalize(rows.float(), dim=1)


def nearest(
    x: Tensor, centroids: Tensor, order: Tensor | None = None, sums: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row of x[order]: ids (n,) int32 and cosines (n,) float32, on x's device.

    Args:
        x: (m, d) of any length and floating type.
        centroids: (k, d) unit rows.
        order: (n,) rows of x; None: all of them.
        sums: (k, d) float32, to which the unit rows are added by their cluster on the way.
    """
    n = len(x) if order is None else len(order)
    ids = torch.empty(n, dtype=torch.int32, device=x.device)
    cosines = torch.empty(n, device=x.device)
    for start, rows in pieces(x, len(centroids), order):
        scores = rows @ centroids.T
        best = argmax(scores)
        ids[start : start + len(rows)] = best
        cosines[start : start + len(rows)] = scores.gather(1, best[:, None]).squeeze(1)
        if sums is not None:
            add_by_cluster(sums, best, rows)
    return ids, cosines.clamp_(-1, 1)


def two_nearest(x: Tensor, centroids: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers (n,) of each row's nearest and second nearest centroid and the gap (n,) of their cosines.

    Adds the rows to `sums` as `nearest` does. There must be two centroids at least.
    """
    parts = []
    for _, rows in pieces(x, len(centroids)):
        scores = rows @ centroids.T
        first = argmax(scores)
        top = scores.gather(1, first[:, None])
        second = argmax(scores.scatter_(1, first[:, None], -torch.inf))
        parts.append((first, second, (top - scores.gather(1, second[:, None])).squeeze(1)))
        add_by_cluster(sums, first, rows)
    first, second, gap = (torch.cat(part) for part in zip(*parts, strict=True))
    return first, second, gap


def argmax(scores: Tensor) -> Tensor:
    """Column (b,) of the maximum of each row; on a CPU torch's own takes six times as long as numpy's."""
    return torch.from_numpy(scores.numpy().argmax(1)) if scores.device.type == "cpu" else scores.argmax(1)


def add_by_cluster(sums: Tensor, ids: Tensor, rows: Tensor) -> None:
    """sums[ids] += rows, in a fixed order: index_add_ on CUDA adds in any order, so rounding would differ."""
    if not rows.is_cuda:
        sums.index_add_(0, ids, rows)
        return
    lengths = torch.bincount(ids, minlength=len(sums))
    sums += torch.segment_reduce(rows[ids.argsort(stable=True)], "sum", lengths=lengths, unsafe=True)
