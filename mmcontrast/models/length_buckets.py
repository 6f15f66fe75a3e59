"""A text tower on real tokens only: captions of like length together, cut to the longest of them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mmcontrast.models.towers import TextTower

MOST_BUCKETS = 8
BUCKET_TOKENS = 128
"""What one more pass through the tower costs, in tokens.

Every pass reads all weights and adds up all their gradients, those of the whole vocabulary too. Measured on one core:
40 for a text tower of CLIP's ViT-B/32, 110 to 170 for one of 4 layers of 192, whose vocabulary is most of it.
"""


def caption_lengths(attention_mask: Tensor) -> Tensor:
    """Tokens up to the last real one, at least 1: (b, t) -> (b,) int64."""
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return ((attention_mask != 0) * places).amax(dim=1).clamp(min=1)


def split_by_length(lengths: Tensor) -> list[Tensor]:
    """Rows in groups of like length, shortest first, in as many groups as cost least.

    Args:
        lengths: (b,) tokens of each caption, on the CPU.

    Returns:
        Row numbers; each of the b rows is in one group. Equal lengths keep their order, so the same batch is always
        split the same way.
    """
    order = lengths.argsort(stable=True)
    ordered = lengths[order].tolist()
    counts = range(1, min(MOST_BUCKETS, len(ordered)) + 1)
    return list(order.tensor_split(min(counts, key=lambda groups: _cost(ordered, groups))))


def _cost(ordered: list[int], groups: int) -> int:
    """Tokens that are computed when ascending lengths are cut into so many equal groups."""
    each, over = divmod(len(ordered), groups)  # the first `over` groups have one more, as tensor_split has it
    ends = itertools.accumulate(each + (i < over) for i in range(groups))
    padded = sum((each + (i < over)) * ordered[end - 1] for i, end in enumerate(ends))
    return padded + groups * BUCKET_TOKENS


def run_on_real_tokens(tower: TextTower, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """`tower(input_ids, attention_mask)` without the padding that all of a group share: (b, t), (b, t) -> (b, width).

    On an accelerator the batch goes through as it is: there a pass is short, and to know the lengths the host would
    have to wait for the device in each step.
    """
    if input_ids.device.type != "cpu" or not tower.shorter_is_cheaper:
        whole: Tensor = tower(input_ids, attention_mask)
        return whole
    lengths = caption_lengths(attention_mask)
    groups = split_by_length(lengths)
    pooled = []
    for rows in groups:
        longest = int(lengths[rows[-1]])
        pooled.append(tower(input_ids[rows, :longest], attention_mask[rows, :longest]))
    return torch.cat(pooled)[torch.cat(groups).argsort()]
