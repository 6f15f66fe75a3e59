"""The order of an epoch in which a share of each batch comes in groups out of one cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcontrast.data.grouping import Groups, draw_groups, refill
from mmcontrast.data.key_conflicts import later_sharers, separate
from mmcontrast.errors import ConfigError

Allow = Callable[[NDArray[np.integer]], NDArray[np.bool_]]
"""(m, g) item numbers of groups to (m, g): False where a member may not stay with an earlier one."""


def guided_order(
    cluster_ids: NDArray[np.integer],
    batch_size: int,
    *,
    share: float,
    group: int,
    seed: int,
    epoch: int,
    neighbours: NDArray[np.integer] | None = None,
    items: NDArray[np.integer] | None = None,
    exclude_keys: NDArray[np.int64] | None = None,
    allow: Allow | None = None,
    window: int = 1 << 21,
) -> NDArray[np.integer]:
    """A permutation of the items, whose slices of `batch_size` are the batches.

    ::

        share = .5, group = 2, batch_size = 8     a batch:  A A . . B B . .
                                                  A, B: of one cluster each, or of it and its neighbours; . uniform

    Every item comes exactly once. Without a share, or as long as no cluster is known, this is bit for bit
    `epoch_order`. Items of an unknown cluster are in the uniform part only; where too few groups can be made,
    batches have fewer of them. Members of a cluster have equal chances to be in a group.

    A random permutation is worked through in windows, each an arrangement of its own: 100 million items need a few
    bytes each beyond the result.

    Args:
        cluster_ids: (n,) cluster of each item, -1 = unknown.
        batch_size: items in a global batch; the rest at the end fills none.
        share: of a batch that comes in groups, 0 to 1.
        group: items in a group.
        seed, epoch: of the random numbers; nothing else influences them.
        neighbours: (num_clusters, m) by which small remainders of clusters are filled up, nearest first.
        items: only these numbers are to be ordered; default all n.
        exclude_keys: (n, c) keys; items that share one are kept in different batches where that is possible.
        allow: says which members may not stay in their group; they go to the uniform part.
        window: items that are arranged at a time.

    Returns:
        (n,) or (len(items),) item numbers, int32 where they fit.

    Raises:
        ConfigError: a share outside of 0 to 1, or a size below 1.
    """
    order = _plain_order(len(cluster_ids), items, seed, epoch)
    starts = group_starts(batch_size, share, group)
    num_clusters = int(cluster_ids.max(initial=-1)) + 1
    if neighbours is not None:
        num_clusters = max(num_clusters, len(neighbours))
        neighbours = _for_all(neighbours, num_clusters)
    if not len(starts) or num_clusters == 0 or len(order) < batch_size or _none_known(cluster_ids, items):
        return order
    rng = np.random.default_rng([seed & 0xFFFF_FFFF, epoch, 1])
    shape = _Shape(batch_size, group, starts, num_clusters, neighbours)
    for begin, end in _windows(len(order), batch_size, window):
        part = order[begin:end]
        keys = None if exclude_keys is None or not exclude_keys.shape[1] else exclude_keys[part]
        order[begin:end] = part[_arrange(part, cluster_ids[part], shape, keys, allow, rng)]
    return order


def group_starts(batch_size: int, share: float, group: int) -> NDArray[np.int64]:
    """Where in a batch its groups start: spread evenly, so that each rank's slice has its share of them."""
    if not 0 <= share <= 1 or group < 1 or batch_size < 1:
        raise ConfigError(
            f"share = {share}, group = {group}, batch size {batch_size}: a share is from 0 to 1, and sizes at least 1"
        )
    count = min(round(share * batch_size / group), batch_size // group)
    return np.arange(count, dtype=np.int64) * batch_size // max(count, 1)


@dataclass(frozen=True)
class _Shape:
    batch_size: int
    group: int
    starts: NDArray[np.int64]
    num_clusters: int
    neighbours: NDArray[np.integer] | None


def _plain_order(n: int, items: NDArray[np.integer] | None, seed: int, epoch: int) -> NDArray[np.integer]:
    largest = n - 1 if items is None else int(items.max(initial=0))
    dtype: type[np.integer] = np.int32 if largest < 2**31 else np.int64
    order: NDArray[np.integer] = np.arange(n, dtype=dtype) if items is None else items.astype(dtype)  # a copy
    np.random.default_rng([seed & 0xFFFF_FFFF, epoch]).shuffle(order)
    return order


def _none_known(cluster_ids: NDArray[np.integer], items: NDArray[np.integer] | None) -> bool:
    return items is not None and bool((cluster_ids[items] < 0).all())


def _for_all(neighbours: NDArray[np.integer], num_clusters: int) -> NDArray[np.integer]:
    missing = num_clusters - len(neighbours)
    return np.pad(neighbours, ((0, missing), (0, 0)), constant_values=-1) if missing else neighbours


def _windows(n: int, batch_size: int, window: int) -> list[tuple[int, int]]:
    """Parts of about equal size that are whole batches, but for the last."""
    batches = n // batch_size
    count = max(1, round(batches * batch_size / max(window, batch_size)))
    edges = [batches * i // count * batch_size for i in range(count)] + [n]
    return [(begin, end) for begin, end in itertools.pairwise(edges) if end > begin]


def _arrange(
    items: NDArray[np.integer],
    ids: NDArray[np.integer],
    shape: _Shape,
    keys: NDArray[np.int64] | None,
    allow: Allow | None,
    rng: np.random.Generator,
) -> NDArray[np.integer]:
    """(w,) positions of a window's items in their new order."""
    batches = len(items) // shape.batch_size
    wanted = batches * len(shape.starts)
    groups = draw_groups(ids, shape.num_clusters, wanted, shape.group, shape.neighbours, rng)
    if keys is not None or allow is not None:
        _screen(groups, items, ids, shape.num_clusters, keys, allow)
    arrangement, guided = _place(groups.members, len(items), batches, shape)
    if keys is not None:
        separate(arrangement, keys, guided, shape.batch_size, rng)
    return arrangement


def _screen(
    groups: Groups,
    items: NDArray[np.integer],
    ids: NDArray[np.integer],
    num_clusters: int,
    keys: NDArray[np.int64] | None,
    allow: Allow | None,
) -> None:
    """Replace, in place, members that may not stay in their group by others of the cluster, as far as these may."""
    refused = _refused(groups.members, items, keys, allow)
    refill(groups, num_clusters, ids, refused)
    again = np.flatnonzero(refused.any(axis=1))
    members = groups.members[again]
    members[_refused(members, items, keys, allow)] = -1
    groups.members[again] = members


def _refused(
    members: NDArray[np.int64],
    items: NDArray[np.integer],
    keys: NDArray[np.int64] | None,
    allow: Allow | None,
) -> NDArray[np.bool_]:
    """(m, g) True for members that share a key with an earlier one, or are not allowed; never for vacancies."""
    refused = np.zeros(members.shape, dtype=bool)
    if not members.size:
        return refused
    vacant = members < 0
    first = np.where(vacant[:, :1], members.max(axis=1, keepdims=True), members[:, :1])
    whole = np.where(vacant, first, members)  # one that is there already says nothing new of those after it
    if keys is not None:
        unit = np.repeat(np.arange(len(members)), members.shape[1])
        keys = keys[whole.ravel()]
        keys[vacant.ravel()] = 0
        refused |= later_sharers(unit, keys).reshape(members.shape)
    if allow is not None:
        refused |= ~allow(items[whole])
    return refused & ~vacant


def _place(
    members: NDArray[np.int64], n: int, batches: int, shape: _Shape
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """(n,) position of the item in each slot, and whether it came there in a group."""
    number = np.arange(len(members))
    first = number % batches * shape.batch_size + shape.starts[number // batches]  # dealt out: no batch gets two more
    arrangement = np.full(n, -1, dtype=np.int32)
    arrangement[first[:, None] + np.arange(shape.group)] = members
    guided = arrangement >= 0
    free = np.ones(n, dtype=bool)
    free[arrangement[guided]] = False
    arrangement[~guided] = np.flatnonzero(free)
    return arrangement, guided
