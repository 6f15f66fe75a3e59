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

    All ranks agree on the order without talking, and it is the same for any number of them.

    Attributes:
        epoch: epoch of the next iteration.
        start_batch: batches of that epoch that are left out at its begin, to go on where a run stopped.
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
        self.epoch, self.start_batch = 0, 0

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch of the next iteration, and how many of its batches are done already."""
        if not 0 <= start_batch <= len(self):
            raise ConfigError(f"start_batch = {start_batch}: an epoch has {len(self)} batches")
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.num_items // self.global_batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch  # prefetching must not mix epochs if set_epoch is called meanwhile
        order = epoch_order(self.num_items, self.seed, epoch)
        share = self.global_batch_size // self.world_size
        for batch in range(self.start_batch, len(self)):
            first = batch * self.global_batch_size + self.rank * share
            yield [Draw(index, epoch) for index in order[first : first + share].tolist()]
