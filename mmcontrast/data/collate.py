"""Items to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmcontrast.data.caption_table import CaptionTable, Tokenize
from mmcontrast.data.dataset import PairItem
from mmcontrast.preprocess import stack_pictures
from mmcontrast.types import NO_KEY, PairBatch


def collate(
    items: Sequence[PairItem],
    tokenize: Tokenize,
    sibling_share: float | None = None,
    table: CaptionTable | None = None,
) -> PairBatch:
    """Stack b items and tokenize their captions, padded to the longest of them only.

    Args:
        items: the pairs.
        tokenize: captions to `Tokens`.
        sibling_share: for which share of the rows a reserved caption comes along at most; None for none.
        table: token ids of all captions, in place of `tokenize`.
    """
    if table is None:
        tokens = tokenize([item.caption for item in items])
    else:
        tokens = table.tokens([item.index for item in items], [item.caption_number for item in items])
    most = max(len(item.caption_keys) for item in items)
    keys = [item.caption_keys + [NO_KEY] * (most - len(item.caption_keys)) for item in items]
    caption_keys = torch.tensor(keys)  # (b, c)
    batch = PairBatch(
        image=stack_pictures([item.image for item in items]),
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        index=torch.tensor([item.index for item in items]),
        caption_key=caption_keys[:, 0].contiguous(),
        caption_keys=caption_keys,
        group_key=torch.tensor([item.group_key for item in items]),
        label=torch.tensor([item.label for item in items]),
        bad_rows=[row for item in items for row in item.bad_rows],
        truncated=tokens.truncated,
        positions=tuple({item.position.reader: item.position for item in items if item.position}.values()),
    )
    return batch if sibling_share is None else _with_siblings(batch, items, tokenize, sibling_share, table)


def _with_siblings(
    batch: PairBatch, items: Sequence[PairItem], tokenize: Tokenize, share: float, table: CaptionTable | None
) -> PairBatch:
    """The batch with reserved captions of its first rows that have one: equally many places on every rank."""
    rows = [row for row, item in enumerate(items) if item.sibling is not None]
    places = max(1, round(share * len(items)))
    rows = (rows + [-1] * places)[:places]
    shown = [items[row] for row in rows]  # in an empty place: any caption
    if table is None:
        tokens = tokenize([item.sibling or item.caption for item in shown])
    else:
        numbers = [item.sibling_number if item.sibling else item.caption_number for item in shown]
        tokens = table.tokens([item.index for item in shown], numbers)
    return replace(
        batch,
        sibling_ids=tokens.input_ids,
        sibling_mask=tokens.attention_mask,
        sibling_rows=torch.tensor(rows),
    )
