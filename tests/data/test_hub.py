from __future__ import annotations

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from making_data import captions_of, picture, pixels, png, tokenize

from mmcontrast.data import StreamDataset, StreamLoader, open_source, open_stream, train_transform
from mmcontrast.data.columns import Wanted
from mmcontrast.data.rows import Row
from mmcontrast.data.streams import dataset_stream
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess


@pytest.fixture
def saved() -> datasets.Dataset:
    names = datasets.ClassLabel(names=["x", "y", "z"])
    features = {"photo": datasets.Image(), "caption": datasets.List(datasets.Value("string")), "label": names}
    columns = {
        "photo": [picture(i) for i in range(6)],
        "caption": [captions_of(i) for i in range(6)],
        "label": [i % 3 for i in range(6)],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_saved_folder(tmp_path: Path, saved: datasets.Dataset) -> None:
    saved.save_to_disk(tmp_path / "a")
    source = open_source(tmp_path / "a")
    assert source.label_names == ["x", "y", "z"]
    for i in range(6):
        assert source.captions(i) == captions_of(i)
        assert np.array_equal(pixels(source, i), np.asarray(picture(i)))
    assert pickle.loads(pickle.dumps(source)).image(3) == source.image(3)
    assert len(open_source(tmp_path / "a", rows=2)) == 2
    with pytest.raises(DataError, match="no split 'val': leave the split out"):
        open_source(tmp_path / "a", split="val")


def test_saved_folder_of_splits_in_shuffled_order(tmp_path: Path, saved: datasets.Dataset) -> None:
    order = [4, 2, 5]
    datasets.DatasetDict(train=saved, val=saved.select(order)).save_to_disk(tmp_path / "a")
    assert len(open_source(tmp_path / "a")) == 6
    source = open_source(tmp_path / "a", split="val")
    assert [source.captions(i) for i in range(3)] == [captions_of(i) for i in order]
    assert np.array_equal(pixels(source, 2), np.asarray(picture(5)))
    with pytest.raises(DataError, match="no split 'test'; splits found: train, val"):
        open_source(tmp_path / "a", split="test")
    rows = [row for row in open_stream(tmp_path / "a", split="val") if isinstance(row, Row)]
    assert [row.captions for row in rows] == [captions_of(i) for i in order]


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the Hub cannot be reached\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"^nobody/nothing: no such file or folder, and .* the Hub cannot be reached$"):
        open_source("nobody/nothing")


def test_streaming_of_an_iterable_data_set(saved: datasets.Dataset) -> None:
    stream = dataset_stream(saved.to_iterable_dataset(num_shards=3), Wanted(), None, "owner/name")
    assert len(stream.units) == 3
    assert stream.label_names == ["x", "y", "z"]
    rows = [row for row in stream if isinstance(row, Row)]
    assert [row.captions for row in rows] == [captions_of(i) for i in range(6)]
    assert [row.image for row in rows] == [png(i) for i in range(6)]
    assert len({row.index for row in rows}) == 6


def test_workers_lose_no_row_of_an_iterable_data_set(saved: datasets.Dataset) -> None:
    stream = dataset_stream(saved.to_iterable_dataset(num_shards=3), Wanted(), None, "owner/name")
    dataset = StreamDataset(stream, train_transform(ImagePreprocess(8), "light"))
    for workers in (1, 2):
        indices = [int(batch.index[0]) for batch in StreamLoader(dataset, 1, tokenize, workers)]
        assert sorted(indices) == sorted(row.index for row in stream if isinstance(row, Row))
