"""Which rows make up which batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mmcontrast.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Draw:
    """One item of one epoch: all that its randomness may depend on, besides the seed."""

    index: int
    epoch: int


def epoch_order(num_items: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(num_items,) the order of an epoch: a permutation that depends on nothing but the arguments."""
    return np.random.default_rng([seed & 0xFFFF_FFFF, epoch]).permutation(num_items)


class GlobalBatchSampler(Sampler[list[Draw]]):
    """Batches of the whole run, of which this rank gets its contiguous slice.

    ::

        order of the epoch   7 2 5 0 | 3 6 1 4 | 8        global_batch_size 4, the rest is dropped
        rank 0 of 2          7 2     | 3 6
        rank 1 of 2              5 0 |     1 4

    All ranks agree on the order without talking, and it is the same for any number of them. A part of an epoch can
    be given an order of its own: those who give it see to it that all ranks have the same.

    Attributes:
        epoch: epoch of the next iteration.
        start_batch: batches of that epoch that are left out at its begin, to go on where a run stopped.
        stop_batch: batch before which the next iteration ends.
        order: items from `start_batch` on, or None for `epoch_order`.
    """

    def __init__(
        self, num_items: int, global_batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ConfigError(f"global_batch_size = {global_batch_size} cannot be divided among {world_size} processes")
        if global_batch_size > num_items:
            raise ConfigError(
                f"global_batch_size = {global_batch_size} is larger than the data set of {num_items} items: "
                "not a single step could be made"
            )
        self.num_items, self.global_batch_size, self.seed = num_items, global_batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0)

    def set_epoch(
        self,
        epoch: int,
        start_batch: int = 0,
        *,
        stop_batch: int | None = None,
        order: NDArray[np.integer] | None = None,
    ) -> None:
        """Set the epoch of the next iteration, and how many of its batches are done already.

        Args:
            epoch: its number.
            start_batch: the first batch to come.
            stop_batch: the batch to end before; default: to the end of the epoch.
            order: item numbers of `start_batch` and all that come after it; default: those of `epoch_order`.
        """
        stop = len(self) if stop_batch is None else stop_batch
        if not 0 <= start_batch <= len(self):
            raise ConfigError(f"start_batch = {start_batch}: an epoch has {len(self)} batches")
        if not start_batch <= stop <= len(self):
            raise ConfigError(f"stop_batch = {stop}: it is to lie between {start_batch} and {len(self)}")
        if order is not None and len(order) < (stop - start_batch) * self.global_batch_size:
            raise ConfigError(f"an order of {len(order)} items does not fill batches {start_batch} to {stop}")
        self.epoch, self.start_batch, self.stop_batch, self.order = epoch, start_batch, stop, order

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.num_items // self.global_batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        # Prefetching must not mix epochs if set_epoch is called meanwhile.
        epoch, order, start, stop = self.epoch, self.order, self.start_batch, self.stop_batch
        if order is None:
            order = epoch_order(self.num_items, self.seed, epoch)[start * self.global_batch_size :]
        share = self.global_batch_size // self.world_size
        for batch in range(stop - start):
            first = batch * self.global_batch_size + self.rank * share
            yield [Draw(index, epoch) for index in order[first : first + share].tolist()]
