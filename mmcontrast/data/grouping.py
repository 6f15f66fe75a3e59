"""Groups of items out of one cluster, or of it and its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MERGE_PASSES = 2


@dataclass(frozen=True)
class Groups:
    """m groups of g items, told by their positions.

    Attributes:
        members: (m, g) positions; all are different, -1 = vacant.
        cluster: (m,) the cluster that all members belong to, or are neighbours of.
        by_cluster: positions of all items whose cluster is known, sorted by it.
    """

    members: NDArray[np.int64]
    cluster: NDArray[np.int64]
    by_cluster: NDArray[np.int64]


def draw_groups(
    ids: NDArray[np.integer],
    num_clusters: int,
    wanted: int,
    group: int,
    neighbours: NDArray[np.integer] | None,
    rng: np.random.Generator,
) -> Groups:
    """Up to `wanted` groups, drawn at random from a cut of all clusters into groups.

    ::

        ids         2 0 0 1 0 2 0 0      group = 2
        cluster 0   4 2 | 7 1 | 6        in random order; 6 is left over
        cluster 1   3                    left over
        cluster 2   0 5
        merged      3 6                  if 0 is a neighbour of 1

    A cluster is drawn as often as its size asks for, and its members have equal chances.

    Args:
        ids: (n,) clusters, -1 = unknown.
        num_clusters: larger than all ids.
        wanted: groups.
        group: items in one.
        neighbours: (num_clusters, m) by which leftovers are merged, the nearest first; None: they are not used.
        rng: random numbers.
    """
    keys = (ids + 1).astype(np.uint16 if num_clusters < 2**16 - 1 else np.int64)  # 16 bits: numpy's radix sort
    # In random order within a cluster: in the order of positions, those that are not drawn would stay close together.
    shuffled = rng.permutation(len(keys))
    by_cluster = shuffled[np.argsort(keys[shuffled], kind="stable")]
    counts = np.bincount(keys, minlength=num_clusters + 1)
    by_cluster, counts = by_cluster[counts[0] :], counts[1:]
    starts = np.cumsum(counts) - counts
    whole = counts // group
    cluster = np.repeat(np.arange(num_clusters), whole)
    number = np.arange(len(cluster)) - np.repeat(np.cumsum(whole) - whole, whole)
    first = starts[cluster] + number * group
    merged, anchors = np.empty((0, group), dtype=np.int64), np.empty(0, dtype=np.int64)
    if neighbours is not None and neighbours.shape[1]:
        rest = counts - whole * group
        label = np.repeat(np.arange(num_clusters), rest)
        within = np.arange(len(label)) - np.repeat(np.cumsum(rest) - rest, rest)
        left = by_cluster[(starts + whole * group)[label] + within]
        merged, anchors = _merge(left, label, neighbours, group, rng)
    chosen = rng.permutation(len(first) + len(merged))[:wanted]
    members = np.empty((len(chosen), group), dtype=np.int64)
    pure = chosen < len(first)
    members[pure] = by_cluster[first[chosen[pure]][:, None] + np.arange(group)]
    members[~pure] = merged[chosen[~pure] - len(first)]
    return Groups(members, np.concatenate([cluster, anchors])[chosen], by_cluster)


def _merge(
    left: NDArray[np.int64],
    label: NDArray[np.int64],
    neighbours: NDArray[np.integer],
    group: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of leftovers of neighbouring clusters.

    In each round every cluster that has too few asks its next neighbour; where several askers and asked meet, the
    lowest of random numbers decides. Who received has mixed goods and gives no more: all members of a group then are
    of its anchor cluster or of neighbours of that one.

    Args:
        left: (r,) positions, fewer than `group` of each cluster.
        label: (r,) their clusters, sorted.

    Returns:
        (m, group) positions and (m,) anchor clusters.
    """
    num_clusters, label = len(neighbours), label.copy()
    mixed = np.zeros(num_clusters, dtype=bool)
    for column in list(range(neighbours.shape[1])) * _MERGE_PASSES:
        size = np.bincount(label, minlength=num_clusters)
        taker = np.flatnonzero((size > 0) & (size < group))
        giver = neighbours[taker, column]
        fits = (giver >= 0) & (giver != taker) & (size[giver] > 0) & ~mixed[giver]
        taker, giver = taker[fits], giver[fits]
        draw = rng.permutation(len(taker))
        lowest = np.full(num_clusters, len(taker))
        np.minimum.at(lowest, taker, draw)
        np.minimum.at(lowest, giver, draw)
        agreed = (lowest[taker] == draw) & (lowest[giver] == draw)
        taker, giver = taker[agreed], giver[agreed]
        goes_to = np.full(num_clusters, -1)
        goes_to[giver] = taker
        takes = np.zeros(num_clusters, dtype=np.int64)
        takes[giver] = np.minimum(group - size[taker], size[giver])
        order = np.argsort(label, kind="stable")
        within = np.empty(len(label), dtype=np.int64)
        within[order] = np.arange(len(label)) - (np.cumsum(size) - size)[label[order]]
        label = np.where(within < takes[label], goes_to[label], label)
        mixed[taker] = True
    full = np.bincount(label, minlength=num_clusters) == group
    order = np.argsort(label, kind="stable")
    return left[order[full[label[order]]]].reshape(-1, group), np.flatnonzero(full)


def refill(groups: Groups, num_clusters: int, ids: NDArray[np.integer], vacant: NDArray[np.bool_]) -> None:
    """Put unused items of the same cluster, in place, where (m, g) `vacant`; where there is none, -1."""
    used = np.zeros(len(ids), dtype=bool)
    used[groups.members.ravel()] = True
    spare = groups.by_cluster[~used[groups.by_cluster]]
    counts = np.bincount(ids[spare], minlength=num_clusters)
    starts = np.cumsum(counts) - counts
    row, column = np.nonzero(vacant)
    order = np.argsort(groups.cluster[row], kind="stable")
    row, column = row[order], column[order]
    cluster = groups.cluster[row]
    asked = np.bincount(cluster, minlength=num_clusters)
    within = np.arange(len(cluster)) - (np.cumsum(asked) - asked)[cluster]
    available = within < counts[cluster]
    groups.members[row, column] = -1
    groups.members[row[available], column[available]] = spare[(starts[cluster] + within)[available]]
