from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from making_data import captions_of, png, write_parquet

from mmcontrast.data import ImageBatch, KeptPictures, PairSource, image_loader, loader, open_source
from mmcontrast.preprocess import ImagePreprocess

PREPROCESS = ImagePreprocess(8)
NEEDED = 10 * 3 * 8 * 8


@pytest.fixture
def source(tmp_path: Path) -> PairSource:
    pictures = [png(i) if i not in (4, 6, 7) else b"broken" for i in range(10)]
    data = pa.table({"image": pictures, "captions": [captions_of(i) for i in range(10)]})
    return open_source(write_parquet(tmp_path / "a.parquet", data))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for each picture that this process decodes."""
    calls: list[int] = []
    original = loader.decode_image
    monkeypatch.setattr(loader, "decode_image", lambda *given: calls.append(1) or original(*given))
    return calls


def assert_same(found: list[ImageBatch], expected: list[ImageBatch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.positions, other.positions)
        assert one.bad_rows == other.bad_rows


@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("workers", [0, 1])
def test_kept_batches_are_those_decoded(source: PairSource, batch_size: int, workers: int) -> None:
    expected = list(image_loader(source, PREPROCESS, batch_size))
    kept = KeptPictures(NEEDED)
    for _ in range(3):
        assert_same(list(kept.batches(source, PREPROCESS, batch_size, workers)), expected)


def test_pictures_are_decoded_once_where_they_fit(source: PairSource, decoded: list[int]) -> None:
    kept = KeptPictures(NEEDED)
    for _ in range(3):
        list(kept.batches(source, PREPROCESS, 3))
    assert len(decoded) == 10
    assert kept.kept_bytes == NEEDED


def test_a_larger_set_is_decoded_anew_and_takes_no_memory(source: PairSource, decoded: list[int]) -> None:
    kept = KeptPictures(NEEDED - 1)
    expected = list(image_loader(source, PREPROCESS, 3))
    for _ in range(2):
        assert_same(list(kept.batches(source, PREPROCESS, 3)), expected)
        assert kept.kept_bytes == 0
    assert len(decoded) == 30


def test_another_request_is_not_served_from_memory(source: PairSource, tmp_path: Path) -> None:
    kept = KeptPictures(2 * NEEDED)
    other = open_source(write_parquet(tmp_path / "b.parquet"))
    requests = [
        (source, PREPROCESS, 3, 10**6),
        (other, PREPROCESS, 3, 10**6),
        (other, ImagePreprocess(8, resize="squash"), 3, 10**6),
        (other, ImagePreprocess(8, resize="squash"), 4, 10**6),
        (other, ImagePreprocess(8, resize="squash"), 4, 30),  # every picture has more pixels
    ]
    for of, preprocess, batch_size, limit in requests:
        expected = list(image_loader(of, preprocess, batch_size, max_image_pixels=limit))
        for _ in range(2):
            assert_same(list(kept.batches(of, preprocess, batch_size, max_image_pixels=limit)), expected)


def test_a_pass_left_early_keeps_nothing(source: PairSource, decoded: list[int]) -> None:
    kept = KeptPictures(NEEDED)
    next(iter(kept.batches(source, PREPROCESS, 3)))
    assert_same(list(kept.batches(source, PREPROCESS, 3)), list(image_loader(source, PREPROCESS, 3)))
    assert len(decoded) == 23
