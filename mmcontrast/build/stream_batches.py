"""Training data without random access: batches as they come, or put together anew by guidance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mmcontrast import distributed
from mmcontrast.build.guidance import Guidance
from mmcontrast.data import PairItem, StreamDataset
from mmcontrast.data.regroup import regroup
from mmcontrast.types import PairBatch

POOL = 8
"""Batches that are put together anew at a time."""


class StreamBatches:
    """Batches of an endless stream; to go on in its middle, what was done is read again and thrown away.

    With guidance, `POOL` batches at a time are put together anew.
    """

    elastic = False  # the rows are dealt out to the processes and their workers

    def __init__(self, loader: DataLoader[PairItem], dataset: StreamDataset, guidance: Guidance | None = None) -> None:
        self.loader = loader
        self.dataset = dataset
        self.num_rows: int | None = None
        self.guidance = guidance
        self.diagnostics: dict[str, float] = {} if guidance is None else guidance.diagnostics
        self._pool_from, self._pool_order = 0, np.empty(0, dtype=np.int64)  # the pool that is being given out

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, the same on all ranks, which call this together: each has a pool of its own."""
        if self.guidance is None:
            return {}
        orders = distributed.gather_lists([self._pool_order.tolist()])
        return {"first_batch": self._pool_from, "orders": orders, "guidance": self.guidance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if self.guidance is None or not state:
            return
        self._pool_from = state["first_batch"]
        self._pool_order = np.array(state["orders"][distributed.rank()], dtype=np.int64)
        self.guidance.load_state_dict(state["guidance"])

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's batches: the whole run is one epoch, since a stream has no length."""
        self.dataset.set_epoch(epoch)
        if self.guidance is None:
            yield from itertools.islice(self.loader, start_batch, None)
            return
        size = self.loader.batch_size or 1
        within = self._pool_from < start_batch < self._pool_from + len(self._pool_order) // size
        first = self._pool_from if within else start_batch
        plan = _PoolPlan(self, self.guidance, first if within else None)
        batches = itertools.islice(self.loader, first, None)
        yield from itertools.islice(regroup(batches, plan, first), start_batch - first, None)


class _PoolPlan:
    """Plan of `regroup`; the pool that begins at batch `known` was planned before the run was interrupted."""

    def __init__(self, batches: StreamBatches, guidance: Guidance, known: int | None) -> None:
        self.batches, self.guidance, self.known = batches, guidance, known

    def pool_size(self, batch: int) -> int:
        guided = batch == self.known or (self.guidance.update(batch) and self.guidance.share > 0)
        return POOL if guided else 1

    def order(self, batch: int, pool: PairBatch, size: int) -> NDArray[np.integer]:
        if batch != self.known:
            self.batches._pool_from = batch
            self.batches._pool_order = self.guidance.pool_order(pool, size, batch).astype(np.int64)
        return self.batches._pool_order
