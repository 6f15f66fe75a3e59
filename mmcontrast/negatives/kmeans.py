"""Spherical k-means in bounded memory.

Lloyd's iterations with cosine similarity (Dhillon and Modha 2001) on a random sample that grows while the centroids
settle (after the nested mini-batches of Newling and Fleuret 2016), started by `seeding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .nearest import add_by_cluster, nearest, pieces
from .seeding import EQUAL, first_centroids, towards

SEED_POINTS = 32  # points per cluster of the first sample, which also seeds
FIT_POINTS = 256  # points per cluster of the last sample: more of them cost time and hardly move a mean
SEED_LEAST, FIT_LEAST = 1 << 13, 1 << 16  # points of either sample, however few clusters there are
SETTLED = 0.03  # a smaller gain in one iteration lets the sample double


@dataclass(frozen=True)
class KMeans:
    """A clustering of n points.

    Attributes:
        centroids: (k, d) float32 unit rows.
        ids: (n,) int32, each point's nearest centroid.
        inertia: mean over the points of 1 - cos(point, its centroid).
        iterations: Lloyd iterations that were made.
    """

    centroids: Tensor
    ids: Tensor
    inertia: float
    iterations: int


@torch.no_grad()
def spherical_kmeans(
    x: Tensor,
    k: int,
    *,
    seed: int,
    iterations: int = 20,
    tolerance: float = 1e-3,
    centroids: Tensor | None = None,
) -> KMeans:
    """Cluster the rows of x (n, d), of any length and floating type, by direction; on x's device.

    Beside x it needs some 20 bytes a point, 36 k rows of d floats and a few pieces. The same seed on the same device
    gives the same result.

    Args:
        x: (n, d); rows of length zero belong to some cluster and pull none.
        k: number of clusters, at most n.
        seed: of the sample and of k-means++.
        iterations: of Lloyd's algorithm, at most, over all sample sizes.
        tolerance: stop when an iteration on the last sample lowers the inertia by less than this share.
        centroids: (k, d) to start from; then clusters keep their numbers and nothing is seeded.

    Raises:
        ValueError: k is not in 1..n, x is not finite, or `centroids` has another shape.
    """
    n = len(x)
    if not 1 <= k <= n:
        raise ValueError(f"{k} clusters of {n} points: there must be 1 to {n}")
    if centroids is not None and centroids.shape != (k, x.shape[1]):
        raise ValueError(f"centroids of shape {tuple(centroids.shape)} cannot start {k} clusters in {x.shape[1]}-D")
    if not all(bool(torch.isfinite(rows.sum())) for _, rows in pieces(x, k)):
        raise ValueError("the points are not finite")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)[: max(FIT_LEAST, FIT_POINTS * k)].to(x.device)
    size = min(len(order), max(SEED_LEAST, SEED_POINTS * k))
    if centroids is None:
        centroids = first_centroids(F.normalize(x[order[:size]].float(), dim=1), k, generator)
    else:
        centroids, size = F.normalize(centroids.to(x.device, torch.float32), dim=1), len(order)
    centroids, made = _lloyd(x, order, size, centroids, iterations, tolerance)
    return KMeans(*_settle(x, centroids), made)


@torch.no_grad()
def assign(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row of x (n, d): ids (n,) int32 and cosines (n,) float32, on x's device."""
    return nearest(x, centroids.to(x.device, torch.float32))


@torch.no_grad()
def neighbouring(centroids: Tensor, m: int) -> Tensor:
    """The m nearest other centroids of each, nearest first: (k, min(m, k - 1)) int32."""
    k = len(centroids)
    columns = F.normalize(centroids.float(), dim=1).T
    near = torch.empty(k, min(m, k - 1), dtype=torch.int32, device=centroids.device)
    for start, rows in pieces(centroids, k):
        scores = rows @ columns
        scores.diagonal(start).fill_(-torch.inf)  # row r of the piece is centroid start + r
        near[start : start + len(rows)] = scores.topk(near.shape[1], dim=1).indices
    return near


def _lloyd(
    x: Tensor, order: Tensor, size: int, centroids: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, int]:
    """Iterate on x[order[:size]], doubling `size` once it has little left to teach: centroids, iterations made."""
    before = float("inf")
    for made in range(iterations):
        sums = torch.zeros_like(centroids)
        ids, cosines = nearest(x, centroids, order[:size], sums)
        moved, targets = _farthest(ids, cosines, len(centroids))
        _move(x[order[moved]], ids[moved].long(), targets, sums)
        centroids = towards(sums, centroids)
        inertia = 1 - float(cosines.mean(dtype=torch.float64))
        gain, before = 1 - inertia / max(before, EQUAL), inertia
        if size == len(order) and gain < tolerance:
            return centroids, made + 1
        if size < len(order) and gain < SETTLED:
            size, before = min(2 * size, len(order)), float("inf")
    return centroids, iterations


def _move(points: Tensor, sources: Tensor, targets: Tensor, sums: Tensor) -> None:
    """Take the points (e, d) out of the sums of their clusters and make them those of the empty `targets`."""
    rows = F.normalize(points.float(), dim=1)
    add_by_cluster(sums, sources, -rows)
    sums[targets] = rows


def _farthest(ids: Tensor, cosines: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Points to be given to empty clusters: (e,) positions, farthest from their centroids first, and (e,) clusters.

    A point at its centroid stays, and so does the nearest one of each cluster: filling one cluster empties no other.
    """
    empty = (torch.bincount(ids, minlength=k) == 0).nonzero().squeeze(1)
    if len(empty) == 0:
        return empty, empty
    best = torch.full((k,), -torch.inf, device=cosines.device).scatter_reduce_(0, ids.long(), cosines, "amax")
    movable = ((cosines < best[ids]) & (cosines < 1 - EQUAL)).nonzero().squeeze(1)
    farthest = movable[cosines[movable].argsort(stable=True)[: len(empty)]]
    return farthest, empty[: len(farthest)]


def _settle(x: Tensor, centroids: Tensor, rounds: int = 5) -> tuple[Tensor, Tensor, float]:
    """Assign all of x to the centroids; one that draws nothing moves to a far point: centroids, ids, inertia."""
    ids, cosines = nearest(x, centroids)
    for _ in range(rounds):
        moved, targets = _farthest(ids, cosines, len(centroids))
        if len(targets) == 0:
            break
        centroids = centroids.index_copy(0, targets, F.normalize(x[moved].float(), dim=1))
        near, closer = nearest(x, centroids[targets])
        better = closer > cosines
        ids = torch.where(better, targets.int()[near], ids)
        cosines = torch.where(better, closer, cosines)
    return centroids, ids, 1 - float(cosines.mean(dtype=torch.float64))
