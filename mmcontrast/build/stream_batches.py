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
from mmcontrast.types import PairBatch, StreamPosition

POOL = 8
"""Batches that are put together anew at a time."""


_KEPT = 4 * POOL
"""Batches that may have been read and not been given out, at least."""


class StreamBatches:
    """Batches of an endless stream.

    To go on in its middle, the workers' shares are taken up where they were: of what was read before, only the parts
    that the shuffle buffers hold rows of are read again. Where the checkpoint does not say where that was (another
    number of workers, say), all is read again and thrown away.

    With guidance, `POOL` batches at a time are put together anew.
    """

    elastic = False  # the rows are dealt out to the processes and their workers

    def __init__(self, loader: DataLoader[PairItem], dataset: StreamDataset, guidance: Guidance | None = None) -> None:
        self.loader = loader
        self.dataset = dataset
        self.num_rows: int | None = None
        self.guidance = guidance
        self.diagnostics: dict[str, float] = {} if guidance is None else guidance.diagnostics
        self._positions: dict[int, StreamPosition] = {}  # of the last batches that were read, by their numbers
        self._started = False
        self._pool_from, self._pool_order = 0, np.empty(0, dtype=np.int64)  # the pool that is being given out

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, the same on all ranks, which call this together: each has a stream of its own."""
        positions = [(number, p.epoch, p.drawn, list(p.counts)) for number, p in self._positions.items()]
        state: dict[str, Any] = {"workers": self._workers, "positions": distributed.gather_lists([positions])}
        if self.guidance is not None:
            orders = distributed.gather_lists([self._pool_order.tolist()])
            state |= {"first_batch": self._pool_from, "orders": orders, "guidance": self.guidance.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state.get("workers") == self._workers:
            own = state["positions"][distributed.rank()]
            self._positions = {number: StreamPosition(epoch, drawn, tuple(c)) for number, epoch, drawn, c in own}
        if self.guidance is None or "guidance" not in state:
            return
        self._pool_from = state["first_batch"]
        self._pool_order = np.array(state["orders"][distributed.rank()], dtype=np.int64)
        self.guidance.load_state_dict(state["guidance"])

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's batches: the whole run is one epoch, since a stream has no length."""
        self.dataset.set_epoch(epoch)
        if self.guidance is None:
            yield from self._read(start_batch)
            return
        size = self.loader.batch_size or 1
        within = self._pool_from < start_batch < self._pool_from + len(self._pool_order) // size
        first = self._pool_from if within else start_batch
        plan = _PoolPlan(self, self.guidance, first if within else None)
        yield from itertools.islice(regroup(self._read(first), plan, first), start_batch - first, None)

    @property
    def _workers(self) -> int:
        return max(1, self.loader.num_workers)

    def _read(self, first: int) -> Iterator[PairBatch]:
        """The loader's batches from number `first` on; batch n is made by worker n % workers."""
        positions = self._positions_before(first)
        batches: Iterator[PairBatch]
        if positions is None or self._started:
            batches = itertools.islice(self.loader, first, None)
        else:
            self.dataset.resume(first % self._workers, positions)
            batches = iter(self.loader)
        self._started, self._positions = True, {n: p for n, p in self._positions.items() if n < first}
        for number, batch in enumerate(batches, first):
            if batch.position is not None:
                self._positions[number] = batch.position
                self._positions.pop(number - _KEPT - 2 * self._workers, None)
            yield batch

    def _positions_before(self, first: int) -> list[StreamPosition | None] | None:
        """Where each worker stood before batch `first`; None where that is not known."""
        newest = range(max(0, first - self._workers), first)
        if not first or any(number not in self._positions for number in newest):
            return None
        of_worker = {number % self._workers: self._positions[number] for number in newest}
        return [of_worker.get(worker) for worker in range(self._workers)]


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
