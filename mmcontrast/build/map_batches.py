"""Training data with random access: an epoch in its plain order, or planned by guidance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mmcontrast.build.guidance import Guidance
from mmcontrast.data import GlobalBatchSampler, PairItem, epoch_order
from mmcontrast.types import PairBatch


class MapBatches:
    """Batches of a source with random access: what was done already is left out without reading it.

    With guidance an epoch is read in segments: it is planned at its begin, and what remains of it anew every so many
    steps. The sampler ends where a segment does, so that nothing is read ahead by an old plan.
    """

    elastic = True

    def __init__(
        self,
        loader: DataLoader[PairItem],
        sampler: GlobalBatchSampler,
        num_rows: int,
        guidance: Guidance | None = None,
    ) -> None:
        self.loader = loader
        self.sampler = sampler
        self.num_rows: int | None = num_rows
        self.guidance = guidance
        self.diagnostics: dict[str, float] = {} if guidance is None else guidance.diagnostics
        # What is planned: from batch `_planned_from` of epoch `_planned_epoch` on this order, or the plain one.
        self._planned_epoch, self._planned_from = -1, 0
        self._order: NDArray[np.integer] | None = None

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the plan that is being carried out."""
        if self.guidance is None:
            return {}
        order = None if self._order is None else torch.from_numpy(self._order)
        plan = {"epoch": self._planned_epoch, "first_batch": self._planned_from, "order": order}
        return plan | {"guidance": self.guidance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if self.guidance is None or not state:
            return
        self._planned_epoch, self._planned_from = state["epoch"], state["first_batch"]
        self._order = None if state["order"] is None else state["order"].numpy()
        self.guidance.load_state_dict(state["guidance"])

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's share of each global batch of an epoch."""
        if self.guidance is None:
            self.sampler.set_epoch(epoch, start_batch)
            # The loader reads its epoch's batches ahead, but never those of the next one.
            yield from self.loader
            return
        batch = start_batch
        while batch < len(self.sampler):
            order = self._plan(self.guidance, epoch, batch)
            stop = self._next_plan(self.guidance, epoch, batch)
            self.sampler.set_epoch(epoch, batch, stop_batch=stop, order=order)
            yield from self.loader
            batch = stop

    def _plan(self, guidance: Guidance, epoch: int, batch: int) -> NDArray[np.integer] | None:
        """The order of what remains of an epoch from a batch on, None for the plain one."""
        if self._planned_epoch != epoch:
            self._planned_epoch, self._planned_from, self._order = epoch, 0, None
        step, every = epoch * len(self.sampler) + batch, guidance.refresh_every_steps
        planned = self._order is not None and self._planned_from == batch
        if not planned and (batch == 0 or (every and step % every == 0)) and guidance.update(step) and guidance.share:
            sampler = self.sampler
            items = None if batch == 0 else self._remaining(batch)
            self._order = guidance.order(sampler.num_items, sampler.global_batch_size, epoch, items)
            self._planned_from = batch
        return None if self._order is None else self._remaining(batch)

    def _remaining(self, batch: int) -> NDArray[np.integer]:
        """Items of the planned epoch from a batch on, those that fill no batch included."""
        sampler = self.sampler
        if self._order is not None:
            return self._order[(batch - self._planned_from) * sampler.global_batch_size :]
        order = epoch_order(sampler.num_items, sampler.seed, self._planned_epoch)
        return order[batch * sampler.global_batch_size :]

    def _next_plan(self, guidance: Guidance, epoch: int, batch: int) -> int:
        """The batch of the epoch at which it is planned anew, or its end."""
        every, batches = guidance.refresh_every_steps, len(self.sampler)
        return batches if every is None else min(batches, batch + every - (epoch * batches + batch) % every)
