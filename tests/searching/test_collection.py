"""What is searched: pictures with names and states, from folders and from tables."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from searching_fakes import changed, paint, picture_folder

from mmcontrast.data import open_source
from mmcontrast.errors import DataError
from mmcontrast.searching import open_collection


def test_all_pictures_of_a_folder_and_below(tmp_path: Path) -> None:
    picture_folder(tmp_path, 4)
    paint(tmp_path / "a [b] ü.JPG", 7, "JPEG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    found = open_collection(tmp_path)
    assert sorted(found.names) == ["00.png", "01.png", "03.png", "a [b] ü.JPG", os.path.join("below", "02.png")]
    state = os.stat(tmp_path / "00.png")
    assert found.states[found.names.index("00.png")] == (state.st_size, state.st_mtime_ns)
    assert found.path(0) == tmp_path / found.names[0]
    assert not found.notes
    assert not any(found.source.captions(i) for i in range(5))


def test_captions_of_a_table_or_of_text_files(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "table", 4)
    (folder / "captions.csv").write_text("image,caption\n00.png,a square\n00.png,red\nbelow/02.png,blue\nnone.png,x\n")
    found = open_collection(folder)
    captions = {name: found.source.captions(i) for i, name in enumerate(found.names)}
    assert captions == {"00.png": ["a square", "red"], "01.png": [], "03.png": [], "below/02.png": ["blue"]}
    folder = picture_folder(tmp_path / "beside", 3)
    (folder / "01.txt").write_text("green\n")
    found = open_collection(folder)
    assert [found.source.captions(i) for i in range(3)] == [[], ["green"], []]


@pytest.mark.parametrize("tables", [["a.csv", "b.csv"], ["prices.csv"]])
def test_tables_of_something_else_do_not_stop_the_search(tmp_path: Path, tables: list[str]) -> None:
    picture_folder(tmp_path, 2)
    for name in tables:
        (tmp_path / name).write_text("when,how much\n1,2\n")
    found = open_collection(tmp_path)
    assert len(found) == 2
    (note,) = found.notes
    assert note.startswith("no captions are shown: ")


def test_a_table_of_pictures_in_files(tmp_path: Path) -> None:
    picture_folder(tmp_path / "pictures", 4)
    table = tmp_path / "pairs.csv"
    table.write_text("image,caption\npictures/01.png,green\npictures/00.png,red\npictures/below/02.png,blue\n")
    found = open_collection(table)
    assert found.names == ["01.png", "00.png", "below/02.png"]
    assert [found.source.captions(i) for i in range(3)] == [["green"], ["red"], ["blue"]]
    before = found.states
    changed(tmp_path / "pictures" / "00.png")
    after = open_collection(table).states
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_a_table_that_holds_the_pictures(tmp_path: Path) -> None:
    pictures = [paint(tmp_path / "x" / f"{i}.png", i).read_bytes() for i in range(3)]
    file = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"image": pictures, "caption": ["red", "green", "blue"]}), file)
    found = open_collection(file)
    assert found.names == ["pairs.parquet#0", "pairs.parquet#1", "pairs.parquet#2"]
    assert found.path(0) is None
    assert len(set(found.states)) == 1
    assert found.states[0][0] == file.stat().st_size


def test_an_open_source_without_files() -> None:
    found, again = (open_collection(open_source("synthetic://scenes", rows=n)) for n in (6, 6))
    assert len(set(found.names)) == 6
    assert (found.names, found.states, found.root) == (again.names, again.states, again.root)
    assert found.states != open_collection(open_source("synthetic://scenes", rows=6, seed=1)).states


def test_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data of a known format in this folder"):
        open_collection(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_collection(tmp_path / "absent")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="no picture in it can be read"):
        open_collection(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 4)
    (folder / "below").chmod(0)
    try:
        found = open_collection(folder)
        assert len(found) == 3
        assert "1 folders cannot be read" in found.notes[0]
        folder.chmod(0)
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            open_collection(folder)
    finally:
        folder.chmod(0o755)
        (folder / "below").chmod(0o755)
