from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from making_data import (
    captions_of,
    png,
    table,
    tar_members,
    tokenize,
    write_csv,
    write_parquet,
    write_pictures,
    write_tar,
)

from mmcontrast.data import PairStream, StreamDataset, StreamLoader, open_source, open_stream, train_transform
from mmcontrast.data.rows import Row
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.steady import Patience, Unit
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess, decode_image
from mmcontrast.types import BadRow

TRANSFORM = train_transform(ImagePreprocess(8), "strong")


def good(stream: PairStream) -> list[Row]:
    return [row for row in stream if isinstance(row, Row)]


def contents(path: Path, **options: object) -> Counter[tuple[object, ...]]:
    """Picture, captions, label, group and row number of every row, as the stream has it."""
    rows = good(open_stream(path, **options))  # type: ignore[arg-type]
    return Counter(
        (np.asarray(decode_image(row.image)).tobytes(), tuple(row.captions), row.label, row.group, row.row)
        for row in rows
    )


def map_contents(path: Path, **options: object) -> Counter[tuple[object, ...]]:
    """The same, as the map-style source has it."""
    source = open_source(path, **options)  # type: ignore[arg-type]
    return Counter(
        (
            np.asarray(decode_image(source.image(i))).tobytes(),
            tuple(source.captions(i)),
            source.label(i),
            source.group(i),
            source.row_number(i),
        )
        for i in range(len(source))
    )


@pytest.fixture
def formats(tmp_path: Path) -> dict[str, Path]:
    names = write_pictures(tmp_path / "folder", 7)
    for i, name in enumerate(names):
        (tmp_path / "folder" / name).with_suffix(".txt").write_text("\n".join(captions_of(i)))
    lines = [["image", "caption", "class", "group_id"], *([f"folder/{n}", f"c {n}", 1, f"g{n}"] for n in names)]
    lines += [["folder/none.png", "missing", 1, ""], ["folder/000.png", "", 1, ""]]
    write_parquet(tmp_path / "a.parquet", table(7))
    write_tar(tmp_path / "a-0.tar", tar_members(0, 3))
    write_tar(tmp_path / "a-1.tar", tar_members(3, 4))
    return {
        "parquet": tmp_path / "a.parquet",
        "tar": tmp_path / "a-*.tar",
        "csv": write_csv(tmp_path / "a.csv", lines),
        "folder": tmp_path / "folder",
    }


@pytest.mark.parametrize("kind", ["parquet", "tar", "csv", "folder"])
def test_stream_and_source_hold_the_same_rows(formats: dict[str, Path], kind: str) -> None:
    path = formats[kind]
    assert contents(path) == map_contents(path)
    assert sum(contents(path).values()) == 7
    assert contents(path, rows=4) == map_contents(path, rows=4)
    stream, source = open_stream(path), open_source(path)
    assert stream.columns == source.columns
    assert [row for row in stream if isinstance(row, BadRow)] == source.bad_rows
    assert len({row.index for row in good(stream)}) == 7


@pytest.mark.parametrize("kind", ["parquet", "tar", "csv", "folder"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_disjoint_and_complete(formats: dict[str, Path], kind: str, count: int) -> None:
    stream = open_stream(formats[kind])
    shares = [
        [row for unit in stream.shard(n, count, 1, 2) for row in unit() if isinstance(row, Row)] for n in range(count)
    ]
    indices = [row.index for share in shares for row in share]
    assert sorted(indices) == sorted(row.index for row in good(stream))
    bad = [
        row for n in range(count) for unit in stream.shard(n, count, 1, 2) for row in unit() if isinstance(row, BadRow)
    ]
    assert len(bad) == len(open_source(formats[kind]).bad_rows)


def test_rows_of_one_picture_share_their_index(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    write_csv(tmp_path / "a.csv", [["image", "caption"], ["000.png", "a"], ["001.png", "b"], ["000.png", "c"]])
    first, second, third = (row.index for row in good(open_stream(tmp_path / "a.csv")))
    assert first == third != second


def test_shuffle_buffer() -> None:
    rows: list[Row | BadRow] = [Row(b"", ["x"], None, None, "f", i, i) for i in range(100)]
    rows.insert(3, BadRow("f", 3, "bad"))

    def order(size: int, seed: int) -> list[int]:
        share = ShuffledShare([Unit(lambda: iter(rows))], Patience(), size, seed)
        return [row.index for row in share if isinstance(row, Row)]

    assert order(1, 0) == list(range(100))
    assert sorted(order(10, 0)) == list(range(100))
    assert order(10, 0) == order(10, 0) != order(10, 1)
    assert all(index < position + 10 for position, index in enumerate(order(10, 0)))  # never earlier than it came
    assert sorted(order(1000, 0)) == list(range(100))


def keys(dataset: StreamDataset, workers: int, epochs: int = 2) -> list[list[tuple[int, bytes, str]]]:
    loader = StreamLoader(dataset, 1, tokenize, workers)
    found = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        batches = list(loader)
        found.append([(int(b.index[0]), b.image.numpy().tobytes(), str(b.input_ids.tolist())) for b in batches])
    return found


def test_workers_share_the_rows_and_items_stay_the_same(formats: dict[str, Path]) -> None:
    stream = open_stream(formats["parquet"])
    alone = keys(StreamDataset(stream, TRANSFORM, seed=4, shuffle_buffer=4), 0)
    both = keys(StreamDataset(stream, TRANSFORM, seed=4, shuffle_buffer=4), 2)
    for epoch in range(2):
        assert sorted(both[epoch]) == sorted(alone[epoch])
        assert len(alone[epoch]) == 7
    assert [key[0] for key in alone[0]] != [key[0] for key in alone[1]]
    assert set(alone[0]).isdisjoint(alone[1])
    assert keys(StreamDataset(stream, TRANSFORM, seed=4, shuffle_buffer=4), 0) == alone


def test_ranks_and_repetition(formats: dict[str, Path]) -> None:
    stream = open_stream(formats["tar"])
    ranks = [StreamDataset(stream, TRANSFORM, rank=rank, world_size=2) for rank in range(2)]
    indices = [[item.index for item in rank] for rank in ranks]
    assert sorted(len(share) for share in indices) == [3, 4]
    assert len(set(indices[0]) | set(indices[1])) == 7
    endless = iter(StreamDataset(stream, TRANSFORM, repeat=True))
    first, second = ([next(endless) for _ in range(7)] for _ in range(2))
    assert {item.index for item in first} == {item.index for item in second}
    assert not all(torch.equal(a.image, b.image) for a, b in zip(first, second, strict=True))


def test_bad_pictures_travel_with_the_next_or_last_item(tmp_path: Path) -> None:
    pictures = [b"bad", png(1), png(2), b"worse"]
    data = pa.table({"image": pictures, "caption": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]})
    stream = open_stream(write_parquet(tmp_path / "a.parquet", data))
    items = list(StreamDataset(stream, TRANSFORM, shuffle_buffer=1))
    assert len(items) == 2
    assert sorted(row.row for item in items for row in item.bad_rows) == [0, 3]
    assert all(item.label == -1 for item in items)
    hopeless = pa.table({"image": [b"bad"] * 2, "caption": ["a", "b"]})
    with pytest.raises(DataError, match="no usable row: all 2 are bad"):
        list(StreamDataset(open_stream(write_parquet(tmp_path / "b.parquet", hopeless)), TRANSFORM))


def test_batches_of_a_stream(formats: dict[str, Path]) -> None:
    dataset = StreamDataset(open_stream(formats["parquet"]), TRANSFORM)
    batches = list(StreamLoader(dataset, 3, tokenize))
    assert [len(batch) for batch in batches] == [3, 3]
    assert batches[0].image.shape == (3, 3, 8, 8)
    labels = open_stream(write_parquet(formats["parquet"].with_name("l.parquet"), table(2).drop_columns(["captions"])))
    with pytest.raises(DataError, match="has no captions to train on"):
        StreamDataset(labels, TRANSFORM)


def test_scenes_as_a_stream() -> None:
    rows = good(open_stream("synthetic://scenes", rows=3))
    assert len(rows) == 3
    assert all(isinstance(row.image, bytes) and row.captions for row in rows)
