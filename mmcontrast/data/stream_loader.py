"""Batches of a stream: the workers make parts of each, which are put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from mmcontrast.data.caption_table import Tokenize
from mmcontrast.data.collate import collate
from mmcontrast.data.loader import available_processors, worker_loader
from mmcontrast.data.regroup import concatenate
from mmcontrast.data.stream_dataset import StreamDataset
from mmcontrast.types import PairBatch


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is not over `most` (1 at least)."""
    return next(divisor for divisor in range(max(1, min(number, most)), 0, -1) if number % divisor == 0)


class StreamLoader:
    """Batches (`PairBatch`) of this rank's share of a stream; nothing is read before the first is asked for.

    Of a stream that is repeated, every reader gives equally many rows to each batch, so that the batches are the same
    however many workers run the readers: as many as there are processors for, at most one for each reader. Of one that
    is not, each worker makes whole batches, and what does not fill one at the end of its share is dropped.

    Args:
        dataset: the stream of items of this rank; if it says no number of readers, as many are set as workers are
            wanted, or the next smaller number that the batch can be shared among.
        batch_size: pairs in a batch of this rank.
        tokenize: captions to `Tokens`, called in the workers.
        workers: worker processes at most; 0 = none.
        prefetch: batches that are made in advance for each worker.
        sibling_share: as for `train_loader`.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        batch_size: int,
        tokenize: Tokenize,
        workers: int = 0,
        *,
        prefetch: int = 2,
        sibling_share: float | None = None,
    ) -> None:
        if dataset.repeat and dataset.readers is None:
            dataset.readers = dataset.world_size * largest_divisor(batch_size, workers)
        self.dataset, self.batch_size, self.workers, self.prefetch = dataset, batch_size, workers, prefetch
        self._collate = partial(collate, tokenize=tokenize, sibling_share=sibling_share)
        self._loader: DataLoader[Any] | None = None
        self._parts = 1

    def __iter__(self) -> Iterator[PairBatch]:
        if self._loader is None:
            self._loader = self._open()
        if self._parts == 1:
            yield from self._loader
            return
        parts: list[PairBatch] = []
        for part in self._loader:
            parts.append(part)
            if len(parts) == self._parts:
                positions = tuple(position for some in parts for position in some.positions)
                yield replace(concatenate(parts, pin=torch.cuda.is_available()), positions=positions)
                parts = []

    def _open(self) -> DataLoader[Any]:
        """The loader of the parts: batch n has its parts n * parts, n * parts + 1, ... of workers 0, 1, ..."""
        dataset, workers = self.dataset, min(self.workers, available_processors())
        if dataset.repeat:
            assert dataset.readers is not None
            own = dataset.readers // dataset.world_size
            dataset.take = self.batch_size // own
            self._parts = largest_divisor(own, workers)
            workers = self._parts if workers else 0
        return worker_loader(
            dataset,
            self._collate,
            workers,
            self.prefetch * self._parts,
            pin=self._parts == 1,
            batch_size=self.batch_size // self._parts,
            drop_last=True,
        )
