"""The whole batch of all ranks as the rules about negatives see it: detached, with no gradient to anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mmcontrast import distributed
from mmcontrast.negatives.known import MatchKeys, known_positives
from mmcontrast.negatives.signals import LARGE, evenly
from mmcontrast.types import NO_KEY, Features, PairBatch

COMPACT, MEASURED = 128, 2048


@dataclass(frozen=True)
class Siblings:
    """Further captions of some pairs, which match these pairs' pictures and were not trained on in this step.

    Attributes:
        text: (s, d) features.
        input_ids, attention_mask: (s, t).
        rows: (s,) the pair of the whole batch that each belongs to.
    """

    text: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor


@dataclass(frozen=True)
class GlobalBatch:
    """n pairs of all ranks, b of them this rank's.

    Attributes:
        image, text: (n, d) detached float32 features.
        scale: the factor of the logits.
        keys: what tells known positives.
        label: (n,) class, or -1.
        input_ids, attention_mask: (n, t).
        local: this rank's rows.
        siblings: further captions, or None.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    keys: MatchKeys
    label: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    local: slice
    siblings: Siblings | None = None

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def compared(self) -> tuple[Tensor, Tensor]:
        """(n, c) of pictures and captions, whose products are about those of `image` and `text`.

        Signals of a large batch cost as much as its loss; there their products are taken in the `COMPACT` directions
        that hold most of both (Eckart and Young 1936).
        """
        if len(self) < LARGE or self.image.shape[1] <= COMPACT:
            return self.image, self.text
        some = evenly(len(self), MEASURED, self.image.device)
        moment = sum(part.T @ part for part in (self.image[some], self.text[some]))
        basis = torch.linalg.eigh(moment).eigenvectors[:, -COMPACT:]
        return self.image @ basis, self.text @ basis

    def own(self, rows: slice | Tensor, columns: slice | Tensor | None = None) -> Tensor:
        """(r, c) bool: each of the rows' own column, among some or all (r, n)."""
        numbers = torch.arange(len(self), device=self.image.device)
        return numbers[rows][:, None] == (numbers if columns is None else numbers[columns])

    def local_rows(self) -> Tensor:
        """(b,) numbers of this rank's rows."""
        return torch.arange(len(self), device=self.image.device)[self.local]

    def known(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Known positives of some rows (r,): (r, n) pictures and all captions, and captions and all pictures."""
        some = self.keys.take(rows)
        return known_positives(some, self.keys), known_positives(self.keys, some).T

    def truth(self, by: str, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """(r, c) bool: pairs of equal class ("label") or group ("group"); the oracle of experiments."""
        value, none = (self.label, -1) if by == "label" else (self.keys.group_key, NO_KEY)
        return (value[rows][:, None] == value[columns]) & (value[columns] != none)


def gather_batch(features: Features, batch: PairBatch, sibling_text: Tensor | None = None) -> GlobalBatch:
    """The batch of all ranks; every rank must call this with as many rows.

    Args:
        features: of this rank's rows.
        batch: this rank's rows.
        sibling_text: (s, d) features of `batch.sibling_ids`.
    """
    siblings = None
    if sibling_text is not None:
        assert batch.sibling_ids is not None
        assert batch.sibling_mask is not None
        assert batch.sibling_rows is not None
        offset = distributed.rank() * len(batch)
        rows = torch.where(batch.sibling_rows < 0, -1, batch.sibling_rows + offset)
        siblings = Siblings(
            distributed.all_gather(sibling_text.detach().float()),
            distributed.all_gather_padded(batch.sibling_ids, 0),
            distributed.all_gather_padded(batch.sibling_mask, 0),
            distributed.all_gather(rows),
        )
        there = siblings.rows >= 0
        siblings = Siblings(*(x[there] for x in vars(siblings).values()))
    start = distributed.rank() * len(batch)
    return GlobalBatch(
        image=distributed.all_gather(features.image.detach().float()),
        text=distributed.all_gather(features.text.detach().float()),
        scale=features.logit_scale.detach().float(),
        keys=gather_keys(MatchKeys.of(batch)),
        label=distributed.all_gather(batch.label),
        input_ids=distributed.all_gather_padded(batch.input_ids, 0),
        attention_mask=distributed.all_gather_padded(batch.attention_mask, 0),
        local=slice(start, start + len(batch)),
        siblings=siblings,
    )


def gather_keys(keys: MatchKeys) -> MatchKeys:
    """The keys of all ranks."""
    if distributed.world_size() == 1:
        return keys
    return replace(
        keys,
        index=distributed.all_gather(keys.index),
        caption_key=distributed.all_gather(keys.caption_key),
        caption_keys=distributed.all_gather_padded(keys.caption_keys, NO_KEY),
        group_key=distributed.all_gather(keys.group_key),
    )
