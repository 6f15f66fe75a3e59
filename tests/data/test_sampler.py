from __future__ import annotations

import numpy as np
import pytest

from mmcontrast.data.sampler import Draw, GlobalBatchSampler, epoch_order
from mmcontrast.errors import ConfigError


def indices(sampler: GlobalBatchSampler) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in sampler]


def test_order_depends_on_seed_and_epoch_only() -> None:
    order = epoch_order(50, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(order, epoch_order(50, 1, 2))
    assert not np.array_equal(order, epoch_order(50, 1, 3))
    assert not np.array_equal(order, epoch_order(50, 2, 2))
    assert epoch_order(3, -5, 0).shape == (3,)


def test_every_item_at_most_once_and_the_rest_dropped() -> None:
    sampler = GlobalBatchSampler(23, 4, seed=0)
    batches = indices(sampler)
    assert len(batches) == len(sampler) == 5
    flat = [index for batch in batches for index in batch]
    assert flat == epoch_order(23, 0, 0)[:20].tolist()
    assert len(set(flat)) == 20


def test_ranks_take_contiguous_slices_of_the_same_global_batches() -> None:
    whole = indices(GlobalBatchSampler(40, 8, seed=3))
    ranks = [indices(GlobalBatchSampler(40, 8, seed=3, rank=rank, world_size=4)) for rank in range(4)]
    assert [[i for part in parts for i in part] for parts in zip(*ranks, strict=True)] == whole


def test_resume_in_the_middle_of_an_epoch() -> None:
    sampler = GlobalBatchSampler(40, 8, seed=3)
    sampler.set_epoch(7)
    whole = list(sampler)
    assert all(draw.epoch == 7 for batch in whole for draw in batch)
    sampler.set_epoch(7, start_batch=3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == 5
    sampler.set_epoch(8)
    assert len(list(sampler)) == 5
    with pytest.raises(ConfigError, match="start_batch = 6: an epoch has 5 batches"):
        sampler.set_epoch(8, start_batch=6)


def test_errors_name_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size = 64 .* 10 items"):
        GlobalBatchSampler(10, 64, seed=0)
    with pytest.raises(ConfigError, match=r"global_batch_size = 10 .* 4 processes"):
        GlobalBatchSampler(100, 10, seed=0, world_size=4)
    assert Draw(1, 2) == Draw(1, 2)


def test_a_part_of_an_epoch_in_an_order_of_its_own() -> None:
    sampler = GlobalBatchSampler(23, 4, seed=0)
    order = np.arange(23)[::-1]
    sampler.set_epoch(2, 1, stop_batch=3, order=order[4:])
    assert indices(sampler) == [[18, 17, 16, 15], [14, 13, 12, 11]]
    assert all(draw.epoch == 2 for batch in sampler for draw in batch)
    sampler.set_epoch(2, 3, order=order[12:])
    assert indices(sampler) == [[10, 9, 8, 7], [6, 5, 4, 3]]
    sampler.set_epoch(2, stop_batch=2)
    assert [index for batch in indices(sampler) for index in batch] == epoch_order(23, 0, 2)[:8].tolist()
    with pytest.raises(ConfigError, match="stop_batch = 6: it is to lie between 1 and 5"):
        sampler.set_epoch(0, 1, stop_batch=6)
    with pytest.raises(ConfigError, match="an order of 19 items does not fill batches 0 to 5"):
        sampler.set_epoch(0, order=order[4:])


def test_ranks_share_an_order_of_its_own() -> None:
    whole = []
    for rank in range(2):
        sampler = GlobalBatchSampler(20, 4, seed=0, rank=rank, world_size=2)
        sampler.set_epoch(0, 2, order=np.arange(12))
        whole.append(indices(sampler))
    assert whole == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
