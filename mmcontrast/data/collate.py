"""Items to one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mmcontrast.data.dataset import PairItem
from mmcontrast.types import NO_KEY, PairBatch, Tokens

Tokenize = Callable[[list[str]], Tokens]


def collate(items: Sequence[PairItem], tokenize: Tokenize) -> PairBatch:
    """Stack b items and tokenize their captions, padded to the longest of them only.

    Args:
        items: the pairs.
        tokenize: captions to `Tokens`.
    """
    tokens = tokenize([item.caption for item in items])
    most = max(len(item.caption_keys) for item in items)
    keys = [item.caption_keys + [NO_KEY] * (most - len(item.caption_keys)) for item in items]
    caption_keys = torch.tensor(keys)  # (b, c)
    return PairBatch(
        image=torch.stack([item.image for item in items]),
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        index=torch.tensor([item.index for item in items]),
        caption_key=caption_keys[:, 0].contiguous(),
        caption_keys=caption_keys,
        group_key=torch.tensor([item.group_key for item in items]),
        label=torch.tensor([item.label for item in items]),
        bad_rows=[row for item in items for row in item.bad_rows],
        truncated=tokens.truncated,
    )
