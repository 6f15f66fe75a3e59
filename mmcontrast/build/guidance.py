"""When clusters are made anew, and how they guide the order of batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcontrast import distributed
from mmcontrast.data.exclusion import batch_keys
from mmcontrast.data.guided_order import Allow, guided_order
from mmcontrast.negatives.kmeans import neighbouring
from mmcontrast.types import PairBatch

PAIRS_AT_ONCE = 1 << 18

Probability = Callable[[Tensor, Tensor], Tensor | None]
"""Rows (m,) and (m,) to the probability (m,) that they match after all; None as long as that is not known."""


class ClusterSource(Protocol):
    """What guidance asks of `negatives.clustering.Clusters`."""

    ids: Tensor
    centroids: Tensor | None

    def coverage(self) -> float:
        """Share of the items that were seen."""

    def refresh(self) -> dict[str, float]:
        """New clusters; all ranks together."""


class Guidance:
    """Decides from which step on batches are guided, and puts them in order.

    Args:
        clusters: what they are guided by.
        share, group, neighbours: see `guided_order`; `neighbours` is how many clusters near one fill its groups up.
        seed: of the order.
        start_step: before it the order is plain.
        refresh_every_steps: steps between new clusters; None: whenever `update` is asked.
        max_probability: two items that match with a higher probability do not stay in one group.
        probability: tells it.
        exclude_keys: makes the (n, c) keys of all items (`data.exclusion.source_keys`), or None; asked once.
        item_rows: (n,) row of each item, where an item is not a row.
        min_coverage: share of the items that must have been seen before the first clusters are made.

    Attributes:
        diagnostics: what the last refresh said.
    """

    def __init__(
        self,
        clusters: ClusterSource,
        *,
        share: float,
        group: int,
        seed: int,
        start_step: int = 0,
        refresh_every_steps: int | None = None,
        neighbours: int = 0,
        max_probability: float | None = None,
        probability: Probability | None = None,
        exclude_keys: Callable[[], NDArray[np.int64] | None] | None = None,
        item_rows: NDArray[np.int64] | None = None,
        min_coverage: float = 0.5,
    ) -> None:
        self.clusters, self.share, self.group, self.seed = clusters, share, group, seed
        self.start_step, self.refresh_every_steps, self.neighbours = start_step, refresh_every_steps, neighbours
        self.max_probability, self.probability, self.item_rows = max_probability, probability, item_rows
        self.min_coverage = min_coverage
        self.diagnostics: dict[str, float] = {}
        self._make_keys = exclude_keys
        self._keys: NDArray[np.int64] | None = None
        self._refreshed_at: int | None = None
        self._found_near: NDArray[np.integer] | None = None  # of these centroids

    def update(self, step: int) -> bool:
        """Make new clusters where it is time to; whether batches from this step on can be guided."""
        if step < self.start_step:
            return False
        last = self._refreshed_at
        if last is None and not self.clusters.coverage() >= max(self.min_coverage, 1e-9):
            return False
        if last is None or (last != step and step - last >= (self.refresh_every_steps or 0)):
            self._say(self.clusters.refresh())
            self._refreshed_at, self._found_near = step, None
        return True

    def order(
        self, num_items: int, batch_size: int, epoch: int, items: NDArray[np.integer] | None = None
    ) -> NDArray[np.integer]:
        """All items, or some, in guided batches of the whole run; all ranks call this together and get the same."""
        if distributed.world_size() == 1:
            return self._order(batch_size, epoch, items)
        # Ids or probabilities that differ between ranks in a last bit would lose an item: only one rank decides.
        dtype = np.int32 if num_items < 2**31 else np.int64
        order: NDArray[np.integer] = np.empty(num_items if items is None else len(items), dtype=dtype)
        if distributed.rank() == 0:
            order = self._order(batch_size, epoch, items).astype(dtype, copy=False)
        device = torch.device("cpu") if self.clusters.centroids is None else self.clusters.centroids.device
        shared: NDArray[np.integer] = distributed.broadcast(torch.from_numpy(order).to(device)).cpu().numpy()
        return shared

    def _order(self, batch_size: int, epoch: int, items: NDArray[np.integer] | None) -> NDArray[np.integer]:
        ids, rows = self.clusters.ids.numpy(), self.item_rows
        if self._make_keys is not None:
            self._keys, self._make_keys = self._make_keys(), None
        return guided_order(
            ids if rows is None else ids[rows],
            batch_size,
            share=self.share,
            group=self.group,
            seed=self.seed,
            epoch=epoch,
            neighbours=self._near(),
            items=items,
            exclude_keys=self._keys,
            allow=self._allow(rows),
        )

    def pool_order(self, pool: PairBatch, batch_size: int, number: int) -> NDArray[np.integer]:
        """(n,) the rows of a pool of a stream in guided batches of this rank, `number` being the first batch's."""
        rows = (pool.index % len(self.clusters.ids)).numpy()
        return guided_order(
            self.clusters.ids.numpy()[rows],
            batch_size,
            share=self.share,
            group=self.group,
            seed=self.seed * 1_000_003 + distributed.rank(),
            epoch=number,
            neighbours=self._near(),
            exclude_keys=batch_keys(pool),
            allow=self._allow(rows),
        )

    def _near(self) -> NDArray[np.integer] | None:
        centroids = self.clusters.centroids
        count = 0 if centroids is None else min(self.neighbours, len(centroids) - 1)
        if centroids is None or count < 1:
            return None
        if self._found_near is None:
            self._found_near = neighbouring(centroids, count).cpu().numpy()
        return self._found_near

    def _allow(self, rows: NDArray[np.int64] | None) -> Allow | None:
        if self.probability is None or self.max_probability is None:
            return None
        probability, most = self.probability, self.max_probability

        def allow(groups: NDArray[np.integer]) -> NDArray[np.bool_]:
            return keeps_apart(groups if rows is None else rows[groups], probability, most)

        return allow

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"refreshed_at": self._refreshed_at, "diagnostics": dict(self.diagnostics)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._refreshed_at, self._found_near = state["refreshed_at"], None
        self._say(state["diagnostics"])

    def _say(self, diagnostics: Mapping[str, float]) -> None:
        self.diagnostics.clear()  # in place: those who log it hold on to it
        self.diagnostics.update(diagnostics)


def keeps_apart(groups: NDArray[np.integer], probability: Probability, most: float) -> NDArray[np.bool_]:
    """(m, g) False for members that match an earlier one, which itself may stay, with a probability over `most`."""
    size = groups.shape[1]
    first, second = np.triu_indices(size, k=1)
    stays = np.ones(groups.shape, dtype=bool)
    if not len(first):
        return stays
    at_once = max(1, PAIRS_AT_ONCE // len(first))
    for begin in range(0, len(groups), at_once):
        part = groups[begin : begin + at_once].astype(np.int64)
        p = probability(torch.from_numpy(part[:, first].ravel()), torch.from_numpy(part[:, second].ravel()))
        if p is None:
            return np.ones(groups.shape, dtype=bool)
        matches = (p.reshape(len(part), -1) > most).cpu().numpy()
        here = stays[begin : begin + at_once]
        for column in range(1, size):
            mine = second == column
            here[:, column] = ~(matches[:, mine] & here[:, first[mine]]).any(axis=1)
    return stays
