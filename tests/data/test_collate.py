from __future__ import annotations

import torch
from making_data import tokenize

from mmcontrast.data.collate import collate
from mmcontrast.data.dataset import PairItem
from mmcontrast.types import NO_KEY, BadRow


def test_a_batch() -> None:
    bad = BadRow("x", 3, "broken")
    pixels = [torch.full((3, 4, 4), n, dtype=torch.uint8) for n in range(2)]
    items = [
        PairItem(pixels[0], "a caption that is longer than 24 letters", [2**62, -5, 7], index=4, group_key=9, label=2),
        PairItem(pixels[1], "short", [11], index=6, bad_rows=[bad]),
    ]
    batch = collate(items, tokenize)
    assert len(batch) == 2
    assert torch.equal(batch.image, torch.stack(pixels))
    assert batch.image.dtype == torch.uint8
    assert batch.input_ids.shape == batch.attention_mask.shape == (2, 24)
    assert batch.attention_mask.sum(1).tolist() == [24, 5]
    assert batch.caption_key.tolist() == [2**62, 11]
    assert batch.caption_keys.tolist() == [[2**62, -5, 7], [11, NO_KEY, NO_KEY]]
    assert (batch.index.tolist(), batch.group_key.tolist(), batch.label.tolist()) == ([4, 6], [9, NO_KEY], [2, -1])
    assert all(t.dtype == torch.int64 for t in (batch.index, batch.caption_keys, batch.group_key, batch.label))
    assert batch.bad_rows == [bad]
    assert batch.truncated == 1
    assert batch.to("cpu").bad_rows == [bad]
    assert collate(items[1:], tokenize).input_ids.shape == (1, 5)
