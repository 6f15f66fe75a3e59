from __future__ import annotations

import json
from pathlib import Path

import pytest
from making_data import write_csv, write_pictures

from mmcontrast.data import open_source
from mmcontrast.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pictures(tmp_path, 4)
    return tmp_path


@pytest.mark.parametrize(("separator", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv"), ("|", "a.csv")])
def test_separators_are_found(folder: Path, separator: str, name: str) -> None:
    rows = [["filepath", "caption", "class"], ["000.png", "one, two; three", "b"], ["001.png", "two\nlines", "a"]]
    rows = rows[:2] if separator == "\t" else rows
    source = open_source(write_csv(folder / name, rows, separator))
    assert source.captions(0) == ["one, two; three"]
    assert source.image(0) == folder / "000.png"
    if separator != "\t":
        assert source.captions(1) == ["two\nlines"]
        assert source.label_names == ["a", "b"]
        assert [source.label(i) for i in range(2)] == [1, 0]


def test_wrong_separator_or_column_names_what_was_found(folder: Path) -> None:
    (folder / "a.csv").write_text("filepath#caption\n000.png#a\n")
    with pytest.raises(DataError, match=r"columns found: 'filepath#caption': is the separator another than ', ; tab"):
        open_source(folder / "a.csv")
    write_csv(folder / "b.tsv", [["filepath", "caption"], ["000.png", "a"]], ",")
    with pytest.raises(DataError, match=r"columns found: 'filepath,caption': is the separator another than '\\t'"):
        open_source(folder / "b.tsv")
    write_csv(folder / "c.csv", [["filepath", "caption"], ["000.png", "a"]])
    with pytest.raises(DataError, match=r"c.csv: no column 'capt'; columns found: 'filepath', 'caption'"):
        open_source(folder / "c.csv", caption_columns="capt")
    (folder / "d.csv").touch()
    with pytest.raises(DataError, match=r"d.csv: there is no row in it"):
        open_source(folder / "d.csv")
    (folder / "e.csv").write_text("filepath,caption\n")
    with pytest.raises(DataError, match=r"e.csv: there is no row in it"):
        open_source(folder / "e.csv")
    (folder / "f.csv").write_bytes("filepath,caption\n000.png,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"f.csv: not UTF-8 text .* at byte 28"):
        open_source(folder / "f.csv")


def test_bad_rows_of_a_csv(folder: Path) -> None:
    lines = [
        "image,caption",
        "000.png,good",
        "001.png,",
        "none.png,missing file",
        "002.png,not, quoted",
        "003.png,NaN",
        "002.png",
        "",
        "003.png,good too",
    ]
    (folder / "a.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    source = open_source(folder / "a.csv")
    assert [source.captions(i) for i in range(len(source))] == [["good"], ["good too"]]
    assert [bad.row for bad in source.bad_rows] == [1, 2, 3, 4, 5]
    assert source.row_number(1) == 6
    assert "3 fields where the header has 2: captions with a ',' in them must be quoted" in source.bad_rows[2].reason
    assert "1 fields" in source.bad_rows[4].reason


def test_a_stray_quote_is_reported_with_the_lines_it_swallowed(folder: Path) -> None:
    (folder / "a.csv").write_text('image,caption\n000.png,"open\n001.png,b\n002.png,say "c"\n003.png,d\n')
    source = open_source(folder / "a.csv")
    assert [source.captions(i) for i in range(len(source))] == [["d"]]
    assert "lines 2 to 4 are not CSV" in source.bad_rows[0].reason


def test_quotes_in_tab_separated_files_are_text(folder: Path) -> None:
    (folder / "a.tsv").write_text('image\tcaption\n000.png\t"open\n001.png\t"a ""b"" c"\n')
    source = open_source(folder / "a.tsv")
    assert [source.captions(i) for i in range(2)] == [['"open'], ['a "b" c']]


def test_rows_of_one_picture_are_one_row_with_several_captions(folder: Path) -> None:
    lines = ["000.png#0\tfirst", "001.png#0\tother", "000.png#1\tsecond", "002.png#0\t", "002.png#1\tkept"]
    (folder / "captions.token.txt").write_text("\n".join(lines))
    source = open_source(folder / "captions.token.txt")  # no header
    assert [source.captions(i) for i in range(len(source))] == [["first", "second"], ["other"], ["kept"]]
    assert source.image(0) == folder / "000.png"
    assert len(source.bad_rows) == 1
    assert len(open_source(folder / "captions.token.txt", rows=2)) == 2


def test_equal_names_in_different_folders_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pictures(tmp_path / name, 1)
        write_csv(tmp_path / name / "pairs.csv", [["image", "caption"], ["000.png", name]])
    source = open_source(tmp_path / "*" / "pairs.csv")
    assert [source.captions(i) for i in range(len(source))] == [["a"], ["b"]]
    assert [source.image(i) for i in range(2)] == [tmp_path / "a" / "000.png", tmp_path / "b" / "000.png"]


def test_lists_of_captions_as_pandas_writes_them(folder: Path) -> None:
    write_csv(folder / "a.csv", [["image", "caption"], ["000.png", "['one', \"it's two\"]"], ["001.png", "[no list"]])
    source = open_source(folder / "a.csv")
    assert source.captions(0) == ["one", "it's two"]
    assert source.captions(1) == ["[no list"]


def test_json_lines(folder: Path) -> None:
    records = [
        {"file_name": "000.png", "captions": ["a", " ", None, "b "], "label": 3, "group_id": 7},
        {"file_name": "001.png", "captions": [{"raw": "c"}], "label": None},
        {"file_name": "002.png", "captions": float("nan"), "label": 1},
        {"captions": "no picture"},
    ]
    lines = [json.dumps(record) for record in records] + ["{broken", "[1]", ""]
    (folder / "a.jsonl").write_text("\n".join(lines))
    source = open_source(folder / "a.jsonl")
    assert [source.captions(i) for i in range(len(source))] == [["a", "b"], ["c"]]
    assert (source.label(0), source.label(1), source.group(0), source.group(1)) == (3, None, "7", None)
    assert [bad.row for bad in source.bad_rows] == [2, 3, 4, 5]
    assert "line 5 is not JSON" in source.bad_rows[2].reason
    assert "line 6 is not a JSON object" in source.bad_rows[3].reason
    (folder / "b.jsonl").write_text("no json\nat all\n")
    with pytest.raises(DataError, match=r"b.jsonl: not JSON lines: line 1 is not JSON"):
        open_source(folder / "b.jsonl")
    (folder / "c.json").write_text(json.dumps(records[:2], indent=1))
    assert open_source(folder / "c.json").captions(0) == ["a", "b"]


def test_half_an_emoji_does_not_break_anything(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"image": "000.png", "caption": "smile \\ud83d é"}\n')
    assert open_source(folder / "a.jsonl").captions(0) == ["smile  é"]


def test_web_addresses_are_refused(folder: Path) -> None:
    write_csv(folder / "a.csv", [["url", "caption"], ["https://x/1.jpg", "a"]])
    with pytest.raises(DataError, match="is a web address; download the pictures first"):
        open_source(folder / "a.csv")
