"""From lists of ids to padded tensors, and back to masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.types import Tokens


def check_captions(captions: Sequence[str]) -> None:
    """Refuse what is easily handed over by mistake: one string instead of a list, missing values, nothing."""
    if isinstance(captions, str):
        raise ModelError("captions must be a list of strings, not one string")
    if not len(captions):
        raise ModelError("there is no caption to tokenize: the list is empty")
    for position, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ModelError(f"caption {position} is a {type(caption).__name__}, not a string")


def pack(ids: Sequence[Sequence[int]], context_length: int, pad_id: int, eos_id: int) -> Tokens:
    """Pad on the right to the longest of b captions; a caption that is cut keeps its end mark.

    Args:
        ids: of each caption, its begin and end marks included.
        context_length: captions longer than this are cut (and counted).
        pad_id: fills up.
        eos_id: end mark.
    """
    truncated = sum(len(row) > context_length for row in ids)
    rows = [[*row[: context_length - 1], eos_id] if len(row) > context_length else row for row in ids]
    lengths = np.array([len(row) for row in rows])
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return Tokens.padded(flat, lengths, pad_id, truncated)


def mask_from_ids(input_ids: Tensor, pad_id: int, eos_id: int) -> Tensor:
    """Attention mask of ids that are padded on the right: (b, t) -> (b, t) int64.

    Everything up to the last id that is no padding is real: in CLIP's vocabulary the padding, 0, is also the
    exclamation mark. Where padding and end mark share an id, the first of the trailing ones is the end mark.
    """
    length = input_ids.shape[1]
    positions = torch.arange(1, length + 1, device=input_ids.device)
    real = ((input_ids != pad_id) * positions).amax(dim=1)
    if pad_id == eos_id:
        real = real + 1
    return (positions <= real.clamp(min=1).unsqueeze(1)).long()
