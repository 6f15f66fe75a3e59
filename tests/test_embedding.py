from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast import embedding_folder
from mmcontrast.embedding import embed_images, embed_texts
from mmcontrast.embedding_folder import EmbedSummary, embed_to_folder
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow


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


def folder_source() -> FakeSource:
    return FakeSource(
        codes=[4, None, 2],
        texts=[["number 4", "vier 4"], ["broken"], ["zwei 2"]],
        labels=[1, 0, None],
        groups=["g", None, None],
        bad_rows=[BadRow("fake.parquet", 7, "empty caption")],
    )


@pytest.mark.parametrize("block", [1, 16384])
def test_folder_holds_all_features_and_what_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(embedding_folder, "_TEXT_BLOCK", block)
    encoder, folder = FakeEncoder(), tmp_path / "out" / "features"
    summary = embed_to_folder(encoder, folder_source(), folder, batch_size=2)
    assert summary == EmbedSummary("fake.parquet", images=2, texts=3, embed_dim=8, bad_rows=2)
    assert json.loads((folder / "embed.json").read_text()) == vars(summary)
    image, text = np.load(folder / "image_features.npy"), np.load(folder / "text_features.npy", mmap_mode="r")
    np.testing.assert_array_equal(image, encoder.vectors[[4, 2]].detach().numpy())
    np.testing.assert_array_equal(text, encoder.vectors[[4, 4, 2]].detach().numpy())
    assert image.dtype == np.float32
    assert [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()] == [
        {"row": 100, "label": 1, "group": "g", "captions": ["number 4", "vier 4"], "texts": [0, 2]},
        {"row": 102, "label": None, "group": None, "captions": ["zwei 2"], "texts": [2, 3]},
    ]
    bad = [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["row"] for row in bad] == [7, 101]
    assert len(list(folder.iterdir())) == 5  # nothing else is left


def test_folder_of_pictures_without_captions(tmp_path: Path) -> None:
    summary = embed_to_folder(FakeEncoder(), FakeSource([1, 2]), tmp_path)
    assert summary.texts == 0
    assert np.load(tmp_path / "image_features.npy").shape == (2, 8)
    assert len(np.load(tmp_path / "text_features.npy")) == 0


def test_failure_leaves_the_earlier_files_alone(tmp_path: Path) -> None:
    embed_to_folder(FakeEncoder(), folder_source(), tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(DataError, match="none of its 1 pictures"):
        embed_to_folder(FakeEncoder(), FakeSource([None]), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    embed_to_folder(FakeEncoder(), FakeSource([5], texts=[["5"]]), tmp_path)
    assert np.load(tmp_path / "image_features.npy").shape == (1, 8)
