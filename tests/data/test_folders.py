from __future__ import annotations

import json
from pathlib import Path

import pytest
from making_data import write_csv, write_pictures

from mmcontrast.data import open_source
from mmcontrast.errors import DataError


def test_captions_file(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 3)
    write_csv(tmp_path / "captions.csv", [["file_name", "caption"], *([name, f"c {name}"] for name in names)])
    (tmp_path / "notes.csv").write_text("not,this\n")
    source = open_source(tmp_path)
    assert [source.captions(i) for i in range(3)] == [["c 000.png"], ["c 001.png"], ["c 002.png"]]
    assert source.name == str(tmp_path)


def test_metadata_as_json_lines_and_pictures_in_a_subfolder(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "Images", 3)
    lines = [json.dumps({"file_name": name, "text": name}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert len(source) == 3
    assert source.image(2) == tmp_path / "Images" / "002.png"


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "captions.csv").write_text("file,caption\n" + "n" * 5000 + ".png,a\n000.png,b\n\0.png,c\n")
    source = open_source(tmp_path)
    assert source.captions(0) == ["b"]
    assert [row.row for row in source.bad_rows] == [0, 2]


def test_captions_txt_of_kaggle(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 2)
    (tmp_path / "captions.txt").write_text("image,caption\n000.png,a\n000.png,b\n001.png,c\n")
    (tmp_path / "readme.txt").write_text("hello")
    assert open_source(tmp_path).captions(0) == ["a", "b"]


def test_sidecar_texts(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 2)
    write_pictures(tmp_path / "dog", 2)
    (tmp_path / "cat" / "000.txt").write_text("a cat\nthe same cat\n\n")
    (tmp_path / "cat" / "001.txt").write_text("  ")
    (tmp_path / "dog" / "001.txt").write_text("a dog", encoding="utf-8-sig")
    source = open_source(tmp_path)
    assert [source.captions(i) for i in range(len(source))] == [["a cat", "the same cat"], ["a dog"]]
    assert source.label_names == ["cat", "dog"]
    assert [source.label(i) for i in range(2)] == [0, 1]
    assert [Path(bad.source).name for bad in source.bad_rows] == ["001.png", "000.png"]
    assert source.bad_rows[1].reason == f"missing captions file: {tmp_path / 'dog' / '000.txt'}"


def test_folders_of_classes_without_captions(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat", 2)
    write_pictures(tmp_path / "dog", 1)
    source = open_source(tmp_path)
    assert source.columns.captions == ()
    assert source.captions(0) == []
    assert [source.label(i) for i in range(3)] == [0, 0, 1]


def test_nothing_to_pair(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    with pytest.raises(DataError, match=r"no column looks like captions .*no captions.csv or other captions file"):
        open_source(tmp_path)
    for name in ("one.csv", "two.csv"):
        write_csv(tmp_path / name, [["image", "caption"], ["000.png", "a"]])
    with pytest.raises(DataError, match=r"several tables \(one.csv, two.csv\): give the path of one"):
        open_source(tmp_path)


def test_pictures_alone_where_captions_are_not_needed(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    source = open_source(tmp_path, captions_optional=True)
    assert (len(source), source.columns.captions, source.label_names) == (2, (), None)


def test_captions_can_be_left_aside(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 3)
    captions = ["a cat", "", ""]  # rows without a caption are bad rows only where captions are wanted
    rows = [[name, caption, "cat"] for name, caption in zip(names, captions, strict=True)]
    write_csv(tmp_path / "captions.csv", [["image", "caption", "label"], *rows])
    assert len(open_source(tmp_path)) == 1
    assert len(open_source(tmp_path, caption_columns="")) == 3
