"""Guided batches out of a stream: a few batches are held together and put together anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from mmcontrast.types import NO_KEY, PairBatch


class Plan(Protocol):
    """Decides, before a batch is given out, whether and how the next ones are put together anew."""

    def pool_size(self, batch: int) -> int:
        """How many batches from number `batch` on are to be held together; below 2 it passes as it is."""

    def order(self, batch: int, pool: PairBatch, size: int) -> NDArray[np.integer]:
        """(n,) the n rows of a pool in their new order; slices of `size` become batches."""


def regroup(batches: Iterator[PairBatch], plan: Plan, start_batch: int = 0) -> Iterator[PairBatch]:
    """The same rows, each once, in batches of the same size that a plan puts together.

    While the batches of one pool go out, those of the next come in, so that training never waits for a whole pool:
    two of them are in memory.

    Args:
        batches: batches of one size, from number `start_batch` on.
        plan: asked once for each pool, when everything before it was given out.
        start_batch: number of the first batch.
    """
    held: list[PairBatch] = []
    number = start_batch
    while True:
        size = max(1, plan.pool_size(number))
        held += islice(batches, max(0, size - len(held)))
        if not held:
            return
        pool, held = held[:size], held[size:]
        if size == 1:
            yield pool[0]
            number += 1
            continue
        rows = concatenate(pool)
        order = torch.from_numpy(plan.order(number, rows, len(pool[0])).astype(np.int64))
        parts = [select(rows, part, pool[0]) for part in torch.split(order, len(pool[0]))]
        for part, old in zip(parts, pool, strict=True):
            held += islice(batches, min(1, max(0, size - len(held))))
            part = replace(part, bad_rows=old.bad_rows, truncated=old.truncated)  # reported once, wherever it went
            yield part.pin_memory() if old.image.is_pinned() else part
        number += len(pool)


def concatenate(batches: Sequence[PairBatch], pin: bool = False) -> PairBatch:
    """One batch of all rows, in pinned memory where asked for; tokens, keys and captions are filled up to the longest.

    Bad rows and cut captions are added up; positions are left out.
    """
    sizes = [len(batch) for batch in batches]
    offsets = np.cumsum([0, *sizes]).tolist()
    first = batches[0]
    siblings: dict[str, Any] = {}
    if first.sibling_rows is not None:
        rows = [
            torch.where(batch.sibling_rows >= 0, batch.sibling_rows + offset, -1)
            for batch, offset in zip(batches, offsets, strict=False)
            if batch.sibling_rows is not None
        ]
        siblings = {
            "sibling_ids": _stack([b.sibling_ids for b in batches], 0),
            "sibling_mask": _stack([b.sibling_mask for b in batches], 0),
            "sibling_rows": torch.cat(rows),
        }
    whole = PairBatch(
        image=_cat([b.image for b in batches], pin),
        input_ids=_stack([b.input_ids for b in batches], 0),
        attention_mask=_stack([b.attention_mask for b in batches], 0),
        index=torch.cat([b.index for b in batches]),
        caption_key=torch.cat([b.caption_key for b in batches]),
        caption_keys=_stack([b.caption_keys for b in batches], NO_KEY),
        group_key=torch.cat([b.group_key for b in batches]),
        label=torch.cat([b.label for b in batches]),
        bad_rows=[row for b in batches for row in b.bad_rows],
        truncated=sum(b.truncated for b in batches),
        **siblings,
    )
    return whole.pin_memory() if pin else whole  # pictures that are pinned already stay where they are


def _cat(pictures: Sequence[Tensor], pin: bool) -> Tensor:
    """Pictures of all batches, copied once."""
    if not pin:
        return torch.cat(list(pictures))
    shape = (sum(map(len, pictures)), *pictures[0].shape[1:])
    return torch.cat(list(pictures), out=torch.empty(shape, dtype=pictures[0].dtype, pin_memory=True))


def _stack(parts: Sequence[Tensor | None], fill: int) -> Tensor:
    present = [part for part in parts if part is not None]
    width = max(part.shape[1] for part in present)
    return torch.cat([pad(part, (0, width - part.shape[1]), value=fill) for part in present])


def select(pool: PairBatch, rows: Tensor, like: PairBatch) -> PairBatch:
    """Some rows of a pool as a batch, its tokens no longer than they need to be.

    There are as many further captions as in `like`, because their number has to be the same on every rank: those
    above it are dropped, and what lacks is filled up with ones to be left out (row -1).
    """
    ids, mask = _trimmed(pool.input_ids[rows], pool.attention_mask[rows])
    siblings: dict[str, Any] = {}
    if pool.sibling_rows is not None and pool.sibling_ids is not None and pool.sibling_mask is not None:
        assert like.sibling_rows is not None
        new_row = torch.full((len(pool) + 1,), -1)  # the last one answers for row -1
        new_row[rows] = torch.arange(len(rows))
        moved = new_row[pool.sibling_rows]
        chosen = torch.argsort(moved < 0, stable=True)[: len(like.sibling_rows)]
        chosen_ids, chosen_mask = _trimmed(pool.sibling_ids[chosen], pool.sibling_mask[chosen])
        siblings = {"sibling_ids": chosen_ids, "sibling_mask": chosen_mask, "sibling_rows": moved[chosen]}
    return PairBatch(
        image=pool.image[rows],
        input_ids=ids,
        attention_mask=mask,
        index=pool.index[rows],
        caption_key=pool.caption_key[rows],
        caption_keys=pool.caption_keys[rows],
        group_key=pool.group_key[rows],
        label=pool.label[rows],
        **siblings,
    )


def _trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens without the columns at the end that nobody uses; the first is kept always."""
    used = mask.any(dim=0).nonzero()
    width = int(used.max()) + 1 if len(used) else 1
    return ids[:, :width].contiguous(), mask[:, :width].contiguous()
