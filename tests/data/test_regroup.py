from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmcontrast.data.exclusion import batch_keys
from mmcontrast.data.regroup import concatenate, regroup, select
from mmcontrast.types import NO_KEY, BadRow, PairBatch

SIZE = 6


def make_batch(number: int, siblings: bool = True) -> PairBatch:
    """Batch `number` of a stream: everything of a row can be told from its index; widths differ between batches."""
    index = torch.arange(number * SIZE, (number + 1) * SIZE)
    width = 3 + number % 3
    mask = (torch.arange(width) <= index[:, None] % width).long()
    width_of_keys = 1 + number % 2
    batch = PairBatch(
        image=index[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8),
        input_ids=index[:, None] * mask,
        attention_mask=mask,
        index=index,
        caption_key=index * 10 + 1,
        caption_keys=torch.stack([index * 10 + 1 + i for i in range(width_of_keys)], dim=1),
        group_key=index // 2 + 1,
        label=index % 4,
        bad_rows=[BadRow("file", number, "broken")],
        truncated=number,
    )
    if siblings:
        rows = torch.tensor([0, 3])
        batch.sibling_ids = (index[rows] + 500)[:, None].expand(-1, width).contiguous()
        batch.sibling_mask = torch.ones(2, width, dtype=torch.int64)
        batch.sibling_rows = torch.where(index[rows] % 4 == 1, -1, rows)
    return batch


class Shuffle:
    """Pools of four from batch 2 on, at random; remembers what it was asked."""

    def __init__(self, start: int = 2) -> None:
        self.start, self.asked = start, list[int]()

    def pool_size(self, batch: int) -> int:
        self.asked.append(batch)
        return 4 if batch >= self.start else 1

    def order(self, batch: int, pool: PairBatch, size: int) -> NDArray[np.integer]:
        assert size == SIZE
        return np.random.default_rng(batch).permutation(len(pool)).astype(np.int32)


def check_rows(batch: PairBatch) -> None:
    """Every row's parts still belong together."""
    index = batch.index
    assert torch.equal(batch.image[:, 0, 0, 0].long(), index)
    assert torch.equal(batch.input_ids, index[:, None] * batch.attention_mask)
    assert torch.equal(batch.attention_mask.sum(dim=1), index % (3 + index // SIZE % 3) + 1)
    assert torch.equal(batch.caption_key, index * 10 + 1)
    assert torch.equal(batch.caption_keys[:, 0], batch.caption_key)
    two = index // SIZE % 2 == 1
    if batch.caption_keys.shape[1] == 2:
        assert torch.equal(batch.caption_keys[:, 1], torch.where(two, index * 10 + 2, NO_KEY))
    assert torch.equal(batch.group_key, index // 2 + 1)
    assert torch.equal(batch.label, index % 4)
    if batch.sibling_rows is not None:
        assert batch.sibling_ids is not None
        assert batch.sibling_mask is not None
        assert batch.sibling_ids.shape == batch.sibling_mask.shape
        there = batch.sibling_rows >= 0
        assert torch.equal(batch.sibling_ids[there, 0], index[batch.sibling_rows[there]] + 500)


@pytest.mark.parametrize("count", [1, 5, 6, 14])
@pytest.mark.parametrize("siblings", [False, True])
def test_every_row_once_and_whole(count: int, siblings: bool) -> None:
    plan = Shuffle()
    batches = list(regroup((make_batch(i, siblings) for i in range(count)), plan))
    assert [len(batch) for batch in batches] == [SIZE] * count
    for batch in batches:
        check_rows(batch)
        assert batch.sibling_rows is None if not siblings else len(batch.sibling_rows) == 2
    index = torch.cat([batch.index for batch in batches])
    assert index.sort().values.tolist() == list(range(count * SIZE))
    assert [batch.truncated for batch in batches] == list(range(count))
    assert [row.row for batch in batches for row in batch.bad_rows] == list(range(count))
    if count >= 6:
        assert index[: 2 * SIZE].tolist() == list(range(2 * SIZE))  # before the pools nothing is changed
        assert index.tolist() != list(range(count * SIZE))
        assert plan.asked[:4] == [0, 1, 2, 6]


def test_some_siblings_survive() -> None:
    batches = list(regroup((make_batch(i) for i in range(8)), Shuffle(0)))
    kept = sum(int((batch.sibling_rows >= 0).sum()) for batch in batches if batch.sibling_rows is not None)
    there = sum(int((make_batch(i).sibling_rows >= 0).sum()) for i in range(8))
    assert there / 2 < kept <= there


def test_the_next_pool_comes_in_while_one_goes_out() -> None:
    read: list[int] = []

    def source() -> object:
        for i in range(20):
            read.append(i)
            yield make_batch(i)

    seen = [len(read) for _ in regroup(source(), Shuffle(0))]  # type: ignore[arg-type]
    assert seen[:6] == [5, 6, 7, 8, 9, 10]
    assert seen[-1] == 20


def test_one_pool_again_from_its_first_batch() -> None:
    whole = list(regroup((make_batch(i) for i in range(14)), Shuffle()))
    again = list(regroup((make_batch(i) for i in range(6, 14)), Shuffle(), start_batch=6))
    for a, b in zip(whole[6:], again, strict=True):
        for field in fields(PairBatch):
            x, y = getattr(a, field.name), getattr(b, field.name)
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def test_selected_tokens_are_no_longer_than_needed() -> None:
    pool = concatenate([make_batch(0), make_batch(1), make_batch(2)])
    assert pool.input_ids.shape == (18, 5)
    part = select(pool, torch.tensor([0, 3]), make_batch(0))
    assert part.input_ids.shape == (2, 1)
    check_rows(part)


def test_keys_tell_who_should_not_meet() -> None:
    batch = make_batch(0)
    keys = batch_keys(batch)
    assert keys.shape == (SIZE, 3)
    assert len(set(keys[:, 0].tolist())) == SIZE
    assert keys[:, 1].tolist() == [1, 1, 2, 2, 3, 3]
    batch.index[1] = batch.index[0]
    assert len(set(batch_keys(batch)[:, 0].tolist())) == SIZE - 1
