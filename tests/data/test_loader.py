from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from making_data import captions_of, picture, png, table, tokenize, write_parquet
from torch import Tensor

from mmcontrast.data import GlobalBatchSampler, PairDataset, image_loader, open_source, train_loader, train_transform
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import PairBatch

PREPROCESS = ImagePreprocess(8)


@pytest.fixture
def dataset(tmp_path: Path) -> PairDataset:
    pictures = [png(i) if i != 4 else b"broken" for i in range(20)]
    data = pa.table({"image": pictures, "captions": [captions_of(i) for i in range(20)]})
    source = open_source(write_parquet(tmp_path / "a.parquet", data))
    return PairDataset(source, train_transform(PREPROCESS, "strong"), seed=3)


def assert_same(left: Sequence[PairBatch], right: Sequence[PairBatch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for field in fields(PairBatch):
            x, y = getattr(a, field.name), getattr(b, field.name)
            assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, field.name


def epochs(dataset: PairDataset, workers: int, count: int = 2) -> list[PairBatch]:
    sampler = GlobalBatchSampler(len(dataset), 6, seed=1)
    loader = train_loader(dataset, sampler, tokenize, workers)
    assert len(loader) == 3
    batches: list[PairBatch] = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        batches += loader
    return batches


def test_workers_change_nothing_over_epochs(dataset: PairDataset) -> None:
    before = torch.get_rng_state()
    alone = epochs(dataset, workers=0)
    assert_same(alone, epochs(dataset, workers=2))
    assert torch.equal(before, torch.get_rng_state())  # dropout would otherwise depend on the number of epochs
    assert not torch.equal(alone[0].index, alone[3].index)
    assert alone[0].image.shape == (6, 3, 8, 8)
    assert {row.row for batch in alone for row in batch.bad_rows} == {4}


def test_resuming_changes_nothing(dataset: PairDataset) -> None:
    whole = epochs(dataset, workers=0)
    sampler = GlobalBatchSampler(len(dataset), 6, seed=1)
    sampler.set_epoch(1, start_batch=1)
    assert_same(list(train_loader(dataset, sampler, tokenize, 0)), whole[4:])


def test_ranks_together_make_the_global_batch(dataset: PairDataset) -> None:
    whole = epochs(dataset, workers=0, count=1)
    parts = []
    for rank in range(2):
        sampler = GlobalBatchSampler(len(dataset), 6, seed=1, rank=rank, world_size=2)
        parts.append(list(train_loader(dataset, sampler, tokenize, 0)))
    for batch, *ranks in zip(whole, *parts, strict=True):
        assert torch.equal(batch.image, torch.cat([part.image for part in ranks]))
        assert torch.equal(batch.caption_key, torch.cat([part.caption_key for part in ranks]))


def test_a_data_set_can_be_sent_to_a_new_process(dataset: PairDataset) -> None:
    assert_same(epochs(pickle.loads(pickle.dumps(dataset)), 0, 1), epochs(dataset, 0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_are_one_line(tmp_path: Path, workers: int) -> None:
    data = table(4).set_column(0, "image", pa.array([b"bad"] * 4))
    broken = PairDataset(open_source(write_parquet(tmp_path / "a.parquet", data)), train_transform(PREPROCESS, "none"))
    sampler = GlobalBatchSampler(4, 2, seed=0)
    with pytest.raises(DataError) as caught:
        list(train_loader(broken, sampler, tokenize, workers))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/a.parquet: 21 rows drawn")


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_in_order(dataset: PairDataset, workers: int) -> None:
    batches = list(image_loader(dataset.source, PREPROCESS, 4, workers))
    assert torch.cat([batch.positions for batch in batches]).tolist() == [i for i in range(20) if i != 4]
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images[6], PREPROCESS.pixels(picture(7)))
    assert [row.row for batch in batches for row in batch.bad_rows] == [4]
    small = list(image_loader(dataset.source, PREPROCESS, 1, workers))
    assert small[4].images.shape == (0, 3, 8, 8)
    assert small[4].positions.shape == (0,)


def test_an_epoch_left_early_does_not_spoil_the_next(dataset: PairDataset) -> None:
    sampler = GlobalBatchSampler(len(dataset), 6, seed=1)
    loader = train_loader(dataset, sampler, tokenize, 2)
    next(iter(loader))
    sampler.set_epoch(1)
    assert_same(list(loader), epochs(dataset, workers=0)[3:])
