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


def item(number: int, sibling: str | None) -> PairItem:
    return PairItem(torch.zeros(3, 4, 4, dtype=torch.uint8), f"caption {number}", [number + 1], number, sibling=sibling)


def test_siblings_have_their_places() -> None:
    items = [item(n, f"the reserved one of {n}" if n in (2, 3, 5, 7) else None) for n in range(8)]
    assert collate(items, tokenize).sibling_rows is None
    batch = collate(items, tokenize, sibling_share=0.375)
    assert batch.sibling_rows is not None
    assert batch.sibling_ids is not None
    assert batch.sibling_mask is not None
    assert batch.sibling_rows.tolist() == [2, 3, 5]  # as many as there are places, the first ones
    expected = tokenize([f"the reserved one of {n}" for n in (2, 3, 5)])
    assert torch.equal(batch.sibling_ids, expected.input_ids)
    assert torch.equal(batch.sibling_mask, expected.attention_mask)
    plain = collate(items, tokenize)
    assert torch.equal(batch.input_ids, plain.input_ids)
    assert torch.equal(batch.caption_keys, plain.caption_keys)


def test_absent_siblings_leave_their_places_empty() -> None:
    """All ranks have as many places: what is missing is marked, not left out."""
    items = [item(n, "further" if n == 1 else None) for n in range(8)]
    for share, places in ((0.5, 4), (0.25, 2), (0.001, 1)):
        batch = collate(items, tokenize, sibling_share=share)
        assert batch.sibling_rows is not None
        assert batch.sibling_ids is not None
        assert batch.sibling_rows.tolist() == [1] + [-1] * (places - 1)
        assert len(batch.sibling_ids) == places
    none = collate([item(0, None), item(1, None)], tokenize, sibling_share=0.5)
    assert none.sibling_rows is not None
    assert none.sibling_rows.tolist() == [-1]
