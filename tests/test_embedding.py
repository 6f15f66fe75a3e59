from __future__ import annotations

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast.embedding import embed_images, embed_texts
from mmcontrast.errors import DataError


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_pictures_come_in_order_without_the_bad_ones(batch_size: int) -> None:
    encoder, done = FakeEncoder(), []
    codes = [4, None, 2, 9, None, 0, 7]
    found = embed_images(encoder, FakeSource(codes), batch_size=batch_size, progress=done.append)
    assert found.positions.tolist() == [0, 2, 3, 5, 6]
    assert found.features.dtype == torch.float32
    assert torch.equal(found.features, encoder.vectors[[4, 2, 9, 0, 7]].detach())
    assert [row.row for row in found.bad_rows] == [101, 104]
    assert all(row.source == "fake.parquet" and "picture" in row.reason for row in found.bad_rows)
    assert sum(done) == 7


def test_pixel_limit_is_passed_on() -> None:
    found = embed_images(FakeEncoder(), FakeSource([1, 2]), max_image_pixels=24)  # 6 x 4
    assert len(found.features) == 2
    with pytest.raises(DataError, match="over the limit of 23"):
        embed_images(FakeEncoder(), FakeSource([1, 2]), max_image_pixels=23)


def test_features_can_be_used_in_autograd() -> None:
    features = embed_images(FakeEncoder(), FakeSource([1, 2])).features
    texts = embed_texts(FakeEncoder(), ["1"])
    probe = torch.ones(8, requires_grad=True)
    ((features @ probe).sum() + (texts @ probe).sum()).backward()  # inference tensors would refuse
    assert probe.grad is not None


def test_no_decodable_picture_is_an_error() -> None:
    with pytest.raises(DataError, match=r"fake.parquet: none of its 2 pictures could be decoded; row 100: .*picture"):
        embed_images(FakeEncoder(), FakeSource([None, None]))


def test_texts_come_in_order_and_equal_ones_are_embedded_once() -> None:
    encoder, done = FakeEncoder(), []
    captions = ["7", "a long caption of 3", "7", "number 5", "7"]
    features = embed_texts(encoder, captions, batch_size=2, progress=done.append)
    assert torch.equal(features, encoder.vectors[[7, 3, 7, 5, 7]].detach())
    assert encoder.text_batches == [["a long caption of 3", "number 5"], ["7"]]  # sorted by length
    assert done == [2, 3]


def test_no_texts_is_an_error() -> None:
    with pytest.raises(DataError, match="no captions to embed"):
        embed_texts(FakeEncoder(), [])


def test_each_module_gets_its_own_mode_back() -> None:
    encoder = FakeEncoder().train()
    encoder.locked.eval()
    embed_images(encoder, FakeSource([1]))
    embed_texts(encoder, ["1"])
    assert encoder.training
    assert not encoder.locked.training
    with pytest.raises(DataError):
        embed_images(encoder, FakeSource([None]))
    assert encoder.training
