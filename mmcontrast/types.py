"""The few objects that travel between the rooms."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcontrast.errors import printable

NO_KEY = 0
"""Value of a caption or group key that stands for "none": it never equals another row's key."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why; one line of `bad_rows.jsonl`."""

    source: str
    row: int
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(str(self.reason)))  # it quotes names and cells of others


@dataclass(frozen=True)
class StreamPosition:
    """How far a reader of a stream has come in its share of an epoch.

    Attributes:
        epoch: counted from 0.
        drawn: usable rows that have left the shuffle buffer.
        counts: usable rows of each part of the share that was read to its end, in order.
    """

    epoch: int
    drawn: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ReaderPosition:
    """How far one of the readers has come that a stream, or a mixture of some, is dealt out to.

    Attributes:
        reader: its number among all of them.
        drawn: pairs that it gave since the run began.
        sources: where it stands in its share of each source.
    """

    reader: int
    drawn: int
    sources: tuple[StreamPosition, ...]


@dataclass(frozen=True)
class Tokens:
    """Token ids of b captions, padded to the longest one of them.

    Attributes:
        input_ids: (b, t) int64.
        attention_mask: (b, t) int64, 1 on real tokens (begin and end marks included).
        truncated: how many of the b captions were cut to the context length.
    """

    input_ids: Tensor
    attention_mask: Tensor
    truncated: int = 0

    @classmethod
    def padded(cls, flat: NDArray[np.integer], lengths: NDArray[np.integer], pad_id: int, truncated: int) -> Tokens:
        """From the ids of b captions one after another, and the (b,) length of each."""
        mask = np.arange(lengths.max()) < lengths[:, None]  # (b, t)
        input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
        input_ids[mask] = flat
        return cls(torch.from_numpy(input_ids), torch.from_numpy(mask.astype(np.int64)), truncated)


@dataclass
class PairBatch:
    """b image-caption pairs, ready for the model.

    Attributes:
        image: (b, 3, h, w) uint8; the model normalises it (a quarter of the bytes to move).
        input_ids: (b, t) int64.
        attention_mask: (b, t) int64.
        index: (b,) int64, position of the row in its source: equal index = same image.
        caption_key: (b,) int64, hash of the normalised caption that was drawn.
        caption_keys: (b, c) int64, hashes of all captions of the row, filled up with NO_KEY.
        group_key: (b,) int64, hash of the group id, or NO_KEY.
        label: (b,) int64 class label, or -1.
        bad_rows: rows that could not be decoded and were replaced in this batch.
        truncated: captions that were cut to the context length in this batch.
        sibling_ids, sibling_mask: (s, t) int64, a further caption of some of the rows; None where nobody asked.
        sibling_rows: (s,) int64, the row of the batch that each belongs to, or -1 for one that is to be left out (its
            row has no further caption).
        positions: of a stream, where each of its readers stood after its last row in the batch.
    """

    image: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    index: Tensor
    caption_key: Tensor
    caption_keys: Tensor
    group_key: Tensor
    label: Tensor
    bad_rows: list[BadRow] = field(default_factory=list)
    truncated: int = 0
    sibling_ids: Tensor | None = None
    sibling_mask: Tensor | None = None
    sibling_rows: Tensor | None = None
    positions: tuple[ReaderPosition, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str, *, images: bool = True) -> PairBatch:
        """The same batch with its tensors on `device` (asynchronously from pinned memory), or all but the pictures."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and (images or f.name != "image")
        }
        return replace(self, **moved)

    def pin_memory(self) -> PairBatch:
        """The same batch in page-locked memory; the name is the one that torch's DataLoader looks for."""
        pinned: dict[str, Any] = {
            f.name: value.pin_memory() for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)


@dataclass(frozen=True)
class Features:
    """What the dual encoder says of a batch.

    Attributes:
        image: (b, embed_dim) L2-normalised.
        text: (b, embed_dim) L2-normalised.
        logit_scale: scalar, already exponentiated.
        logit_bias: scalar, or None.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None
