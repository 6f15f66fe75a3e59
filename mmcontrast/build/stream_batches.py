"""Training data without random access: batches as they come, or put together anew by guidance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcontrast import distributed
from mmcontrast.build.guidance import Guidance
from mmcontrast.data import StreamDataset, StreamLoader
from mmcontrast.data.regroup import regroup
from mmcontrast.errors import TrainingError
from mmcontrast.types import PairBatch, ReaderPosition, StreamPosition

Positions = dict[int, ReaderPosition]
"""Where each of this process's readers stands, by their numbers."""

POOL = 8
"""Batches that are put together anew at a time."""
_KEPT = 4 * POOL
"""Batches that may have been read and not been given out, at least."""


class StreamBatches:
    """Batches of an endless stream, or of a mixture of some.

    The stream is dealt out to a fixed number of readers, and a batch has as many rows of each: so any number of
    processes that divides that of the readers gets the same global batches, and goes on with a run that others began.
    In its middle the readers take up their shares where they were: of what was read before, only the parts that the
    shuffle buffers hold rows of are read again. Where the checkpoint does not say where that was, all is read again
    and thrown away.

    With guidance, each process puts `POOL` of its batches at a time together anew, so that their number has to stay.
    """

    def __init__(self, loader: StreamLoader, dataset: StreamDataset, guidance: Guidance | None = None) -> None:
        self.loader = loader
        self.dataset = dataset
        self.num_rows: int | None = None
        self.guidance = guidance
        self.elastic = guidance is None
        self._positions: dict[int, Positions] = {}  # after each of the last batches that were read
        self._given = 0  # batches that the trainer has had
        self._started = False
        self._pool_from, self._pool_order = 0, np.empty(0, dtype=np.int64)  # the pool that is being given out

    @property
    def diagnostics(self) -> dict[str, float]:
        """What guidance says, and the pairs that each source of a mixture has given so far."""
        found = {} if self.guidance is None else dict(self.guidance.diagnostics)
        mixture = self.dataset.stream.mixture
        if mixture is not None:
            counts = mixture.counts(self._given * self.loader.batch_size * distributed.world_size())
            found |= {f"pairs_of_source_{source}": count for source, count in enumerate(counts)}
        return found

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, the same on all ranks, which call this together: each has readers of its own."""
        # Where the next batch begins, or the pool that it is in: nobody goes back further.
        wanted = {self._given - 1, self._pool_from - 1} if self._started else self._positions.keys()
        kept = {number: found for number, found in self._positions.items() if number in wanted}
        own = [(number, *_plain(place)) for number, found in kept.items() for place in found.values()]
        state: dict[str, Any] = {"readers": self.dataset.readers, "buffer": self.dataset.shuffle_buffer}
        state["positions"] = distributed.gather_lists(own)
        if self.guidance is not None:
            orders = distributed.gather_lists([self._pool_order.tolist()])
            state |= {"first_batch": self._pool_from, "orders": orders, "guidance": self.guidance.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; any number of processes can share the readers that divides theirs.

        Raises:
            TrainingError: this number of processes does not.
        """
        readers, processes = state.get("readers"), distributed.world_size()
        if readers is not None:
            if readers % processes:
                raise TrainingError(
                    f"the stream of this run is dealt out to {readers} reader{'s' if readers > 1 else ''}, which "
                    f"{processes} processes cannot share: go on with {_listed(readers)} (data.stream_readers sets how "
                    "many a new run has)"
                )
            self.dataset.readers, self.dataset.shuffle_buffer = readers, state["buffer"]
            own = readers // processes
            first = distributed.rank() * own
            for number, *values in state["positions"]:
                place = _position(*values)
                if first <= place.reader < first + own:
                    self._positions.setdefault(number, {})[place.reader] = place
        if self.guidance is None or "guidance" not in state:
            return
        self._pool_from = state["first_batch"]
        self._pool_order = np.array(state["orders"][distributed.rank()], dtype=np.int64)
        self.guidance.load_state_dict(state["guidance"])

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's batches: the whole run is one epoch, since a stream has no length."""
        self.dataset.set_epoch(epoch)
        for number, batch in enumerate(self._batches(start_batch), start_batch + 1):
            self._given = number
            yield batch

    def _batches(self, start_batch: int) -> Iterator[PairBatch]:
        if self.guidance is None:
            return self._read(start_batch)
        size = self.loader.batch_size
        within = self._pool_from < start_batch < self._pool_from + len(self._pool_order) // size
        first = self._pool_from if within else start_batch
        plan = _PoolPlan(self, self.guidance, first if within else None)
        return itertools.islice(regroup(self._read(first), plan, first), start_batch - first, None)

    def _read(self, first: int) -> Iterator[PairBatch]:
        """The loader's batches from number `first` on."""
        positions = self._positions.get(first - 1)
        batches: Iterator[PairBatch]
        if positions is None or self._started:
            batches = itertools.islice(self.loader, first, None)
        else:
            self.dataset.resume(positions)
            batches = iter(self.loader)
        self._started, self._positions = True, {n: p for n, p in self._positions.items() if n < first}
        for number, batch in enumerate(batches, first):
            if batch.positions:
                self._positions[number] = {place.reader: place for place in batch.positions}
                self._positions.pop(number - _KEPT, None)
            yield batch


def _plain(place: ReaderPosition) -> tuple[int, int, list[Any]]:
    """A position as a checkpoint holds it."""
    return place.reader, place.drawn, [[s.epoch, s.drawn, list(s.counts)] for s in place.sources]


def _position(reader: int, drawn: int, sources: Sequence[Any]) -> ReaderPosition:
    places = tuple(StreamPosition(epoch, count, tuple(counts)) for epoch, count, counts in sources)
    return ReaderPosition(reader, drawn, places)


def _listed(readers: int) -> str:
    """Numbers of processes that may share some readers: 1, 2 or 4."""
    *others, last = [str(count) for count in range(1, readers + 1) if readers % count == 0]
    return f"{', '.join(others)} or {last}" if others else last


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
