from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from making_data import captions_of, encoded, picture, pixels, png, table, write_parquet, write_pictures

from mmcontrast.data import open_source
from mmcontrast.errors import DataError


def test_bytes_captions_labels_and_rows(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path / "a.parquet"))
    assert len(source) == 6
    assert source.columns.guessed == ("image", "captions", "label")
    for i in range(6):
        assert source.image(i) == png(i)
        assert source.captions(i) == captions_of(i)
        assert source.label(i) == i % 3
        assert source.group(i) is None
        assert source.row_number(i) == i
    assert source.label_names is None
    assert len(open_source(tmp_path / "a.parquet", rows=3)) == 3
    assert len(open_source(tmp_path / "a.parquet", rows=300)) == 6


def test_class_names_of_datasets_are_read(tmp_path: Path) -> None:
    feature = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "cow"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    data = table().append_column("label_name", pa.array(["cat", "dog", "cow"] * 2))
    source = open_source(write_parquet(tmp_path / "a.parquet", data.replace_schema_metadata(metadata)))
    assert source.columns.label == "label"
    assert source.label_names == ["cat", "dog", "cow"]
    bare = open_source(write_parquet(tmp_path / "b.parquet", data))
    assert bare.columns.label == "label_name"
    assert bare.label_names == ["cat", "cow", "dog"]
    assert [bare.label(i) for i in range(3)] == [0, 2, 1]


def test_pictures_as_plain_bytes_and_as_paths(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "pictures", 3)
    captions = pa.array(["a", "b", "c"])
    raw = pa.table({"jpg": [png(i) for i in range(3)], "text": captions})
    paths = pa.table({"file_name": [f"pictures/{name}" for name in names], "text": captions})
    structs = pa.table({"image": [{"bytes": None, "path": f"pictures/{name}"} for name in names], "text": captions})
    sources = [
        open_source(write_parquet(tmp_path / f"{n}.parquet", data)) for n, data in enumerate((raw, paths, structs))
    ]
    for source in sources:
        assert [source.captions(i) for i in range(3)] == [["a"], ["b"], ["c"]]
        assert np.array_equal(pixels(source, 2), np.asarray(picture(2)))
    assert sources[1].image(0) == tmp_path / "pictures" / "000.png"


def test_files_are_concatenated_and_bad_rows_name_theirs(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a-0.parquet")
    broken = table(3).set_column(1, "captions", pa.array([["x"], ["  "], None]))
    write_parquet(tmp_path / "a-1.parquet", broken)
    source = open_source(tmp_path / "a-*.parquet")
    assert len(source) == 7
    assert source.captions(6) == ["x"]
    assert source.image(6) == png(0)
    assert [(Path(bad.source).name, bad.row) for bad in source.bad_rows] == [("a-1.parquet", 1), ("a-1.parquet", 2)]
    assert "'captions' empty or missing" in source.bad_rows[0].reason
    write_parquet(tmp_path / "a-2.parquet", table(3).rename_columns(["image", "texts", "label"]))
    with pytest.raises(DataError, match=r"a-2.parquet: no column 'captions'; columns found: 'image', 'texts'"):
        open_source(tmp_path / "a-*.parquet")


def test_bad_cells(tmp_path: Path) -> None:
    data = pa.table(
        {
            "image": [png(0), None, b"", png(3), png(4), png(5)],
            "caption": ["a", "b", "c", None, "nan", "f"],
            "other": ["A", "B", "C", None, "", "F"],
            "group_id": [1.0, 2.0, 3.0, 4.0, 5.0, None],
        }
    )
    source = open_source(write_parquet(tmp_path / "a.parquet", data), caption_columns=["caption", "other"])
    assert [source.captions(i) for i in range(len(source))] == [["a", "A"], ["f", "F"]]
    assert [source.group(i) for i in range(2)] == ["1.0", None]
    assert [bad.row for bad in source.bad_rows] == [1, 2, 3, 4]
    assert source.bad_rows[0].reason == "no picture in this row"
    assert [source.row_number(i) for i in range(2)] == [0, 5]


def test_missing_files_are_bad_rows(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "empty.png").touch()
    data = pa.table({"path": ["000.png", "none.png", "empty.png", None], "caption": ["a", "b", "c", "d"]})
    source = open_source(write_parquet(tmp_path / "a.parquet", data))
    assert len(source) == 1
    reasons = [bad.reason for bad in source.bad_rows]
    assert reasons[0] == f"missing file: {tmp_path / 'none.png'}"
    assert reasons[1].startswith("empty file: ")
    assert reasons[2] == "no picture in this row"


def test_large_picture_columns_are_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCONTRAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mmcontrast.data.pictures.IN_MEMORY_BYTES", 100)
    for name in ("a-0", "a-1"):
        write_parquet(tmp_path / f"{name}.parquet")
    before = pa.total_allocated_bytes()
    source = open_source(tmp_path / "a-*.parquet")
    assert pa.total_allocated_bytes() - before < 3000
    assert [source.image(i) for i in range(12)] == [png(i % 6) for i in range(12)]
    cached = sorted((tmp_path / "cache" / "pictures").iterdir())
    assert [path.suffix for path in cached] == [".arrow", ".arrow"]
    times = [path.stat().st_mtime_ns for path in cached]
    again = pickle.loads(pickle.dumps(open_source(tmp_path / "a-*.parquet")))
    assert again.image(7) == png(1)
    assert [path.stat().st_mtime_ns for path in cached] == times
    write_parquet(tmp_path / "a-0.parquet", table(2))
    assert open_source(tmp_path / "a-*.parquet").image(2) == png(0)


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMCONTRAST_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("mmcontrast.data.pictures.IN_MEMORY_BYTES", 100)
    with pytest.raises(DataError, match=r"set MMCONTRAST_CACHE to a folder with room, or data.streaming"):
        open_source(write_parquet(tmp_path / "a.parquet"))


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet file"):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"b.parquet: there is no row in it"):
        open_source(write_parquet(tmp_path / "b.parquet", table(3).slice(0, 0)))
    bad = table(2).set_column(1, "captions", pa.array(["", None]))
    with pytest.raises(DataError, match=r"no usable row: all 2 are bad, the first \(.*c.parquet, row 0\): no caption"):
        open_source(write_parquet(tmp_path / "c.parquet", bad))
    with pytest.raises(DataError, match=r"pictures must be bytes, file names .* not int64: set data.image_column"):
        open_source(write_parquet(tmp_path / "d.parquet", table(2)), image_column="label")
    urls = pa.table({"url": ["http://x/1.jpg"], "caption": ["a"]})
    with pytest.raises(DataError, match="is a web address; download the pictures first"):
        open_source(write_parquet(tmp_path / "e.parquet", urls))


def test_source_survives_pickling(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(write_parquet(tmp_path / "a.parquet"))))
    assert source.image(5) == png(5)
    assert source.captions(5) == captions_of(5)
    assert encoded(picture(5)) == png(5)
