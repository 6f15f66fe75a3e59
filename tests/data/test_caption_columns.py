"""Which column a caption stood in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from making_data import png, table, write_csv, write_parquet, write_pictures

from mmcontrast.data import open_source
from mmcontrast.data.rows import ColumnedSource


def test_lists_empty_cells_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    data = pa.table(
        {
            "image": [png(0), png(1), png(2), b"broken"],
            "captions": [["a", "b"], ["c"], [], ["x"]],
            "captions_de": [["d"], [], [], ["y"]],
            "captions_fr": ["e", None, "", "z"],
        }
    )
    file = write_parquet(tmp_path / "a.parquet", data)
    source = open_source(file, caption_columns=["captions", "captions_fr", "captions_de"])
    assert isinstance(source, ColumnedSource)
    assert [source.captions(i) for i in range(2)] == [["a", "b", "e", "d"], ["c"]]
    assert [source.caption_columns(i) for i in range(2)] == [[0, 0, 1, 2], [0]]
    assert [row.row for row in source.bad_rows] == [2]  # a picture is decoded later


def test_rows_of_one_picture_are_put_together(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 2)
    rows = [["filepath", "en", "de"], [names[0], "a", "b"], [names[1], "c", ""], [names[0], "", "d"]]
    source = open_source(write_csv(tmp_path / "a.csv", rows), caption_columns=["en", "de"])
    assert isinstance(source, ColumnedSource)
    assert [source.captions(i) for i in range(2)] == [["a", "b", "d"], ["c"]]
    assert [source.caption_columns(i) for i in range(2)] == [[0, 1, 1], [0]]


def test_a_single_column(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path / "a.parquet", table()))
    assert isinstance(source, ColumnedSource)
    assert source.caption_columns(0) == [0] * len(source.captions(0))
