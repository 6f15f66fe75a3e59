"""Rows that were made to do harm, or by programs that went wrong: each is a bad row or one clear line."""

from __future__ import annotations

import json
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making_data import picture, png, tar_members, write_csv, write_parquet, write_pictures, write_tar

from mmcontrast.data import open_source, open_stream
from mmcontrast.data.rows import clean_captions, clean_group, encode_labels, label_number
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image
from mmcontrast.types import BadRow


def json_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_cells_that_are_no_captions() -> None:
    assert clean_captions([b"", b"  ", b" a ", "\ud800", "\ud83d\ude00 \ud83d b"]) == ["a", "b"]
    assert clean_captions(["😀 ok", "كلب أحمر", "ab\u202ecd"]) == ["😀 ok", "كلب أحمر", "ab\u202ecd"]
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    assert clean_captions([deep]) == ["x"]
    assert clean_captions([["a", ["b", "c"]], "d"]) == ["a", "b", "c", "d"]
    assert clean_captions([1 << 20_000, "a"]) == ["a"]


def test_numbers_that_are_no_classes() -> None:
    assert [label_number(cell) for cell in (10**400, 1e300, float("inf"), "9" * 400, 2**53, True)] == [*[None] * 5, 1]
    numbers, names = encode_labels([10**400, "1e300", 3], None, "x")
    assert numbers is not None
    assert names is not None
    assert len(names) == 3
    assert clean_group("\ud800a") == "a"


def test_a_caption_of_a_megabyte(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    long = "word " * 200_000
    for name, separator in (("data.csv", ","), ("data.tsv", "\t")):
        path = write_csv(tmp_path / name, [["image", "caption"], ["000.png", long], ["001.png", "b"]], separator)
        source = open_source(path)
        assert source.captions(0) == [long.strip()]
    path = write_csv(tmp_path / "names.csv", [["image", "caption" + "x" * 300_000], ["000.png", "b"]])
    with pytest.raises(DataError, match="no column 'caption'"):
        open_source(path, caption_columns="caption")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    rows = [{"image": name, "caption": "c"} for name in ("000.png", "a\0.png", "\ud800.png", "n" * 5000, "\x1b[2J.png")]
    source = open_source(json_lines(tmp_path / "data.jsonl", rows))
    assert len(source) == 1
    assert [row.row for row in source.bad_rows] == [1, 2, 3, 4]
    assert all(row.reason.startswith("missing file: ") for row in source.bad_rows)
    assert "no file can have this name" in source.bad_rows[0].reason
    stream = [row for row in open_stream(tmp_path / "data.jsonl") if isinstance(row, BadRow)]
    assert [row.row for row in stream] == [1, 2, 3, 4]


@pytest.mark.skipif(os.name != "posix", reason="names of files are text here")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"good.png"):
        picture(0).save(os.path.join(os.fsencode(tmp_path), name), "PNG")
        with open(os.path.join(os.fsencode(tmp_path), name[:-4] + b".txt"), "w") as text:
            text.write("a caption")
    source = open_source(tmp_path)
    assert len(source) == 2
    assert not source.bad_rows
    for row in range(2):
        assert Path(source.image(row)).is_file()  # type: ignore[arg-type]


def test_json_that_is_no_record(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    good = {"image": "000.png", "caption": "c"}
    rows = [good, nested(100_000), "[1]", '{"a":' * 50_000, "5", '{"image": "000.png", "caption": 1e999}', "nan"]
    source = open_source(json_lines(tmp_path / "data.jsonl", rows))
    assert [row.row for row in source.bad_rows] == [1, 2, 3, 4, 6]
    assert "nested too deeply" in source.bad_rows[0].reason
    (tmp_path / "list.json").write_text(json.dumps([good, 5, None, "x", []]))
    source = open_source(tmp_path / "list.json")
    assert [row.reason for row in source.bad_rows] == [f"record {n} is not a JSON object" for n in (2, 3, 4, 5)]
    with pytest.raises(DataError, match="not JSON lines: line 1 is an object without any field"):
        open_source(json_lines(tmp_path / "empty.jsonl", [{}, {}]))
    problem = {"image": "000.png", "caption": "c", "\0problem": 5}
    assert len(open_source(json_lines(tmp_path / "key.jsonl", [problem]))) == 1


def test_lists_in_fields_that_are_none(tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    cells = ["['a', " + "-" * 5000 + "1]", "['" + "\\d" + "']", "['a'" + ", [" * 500 + "]"]
    source = open_source(write_csv(tmp_path / "data.csv", [["image", "caption"], *(["000.png", c] for c in cells)]))
    assert source.captions(0) == [cells[0], "\\d", cells[2]]


def damaged_parquet(path: Path) -> None:
    data = bytearray(write_parquet(path).read_bytes())
    data[10:400] = b"\xff" * 390
    path.write_bytes(data)


def cut_parquet(path: Path) -> None:
    path.write_bytes(write_parquet(path).read_bytes()[:-30])


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    for make in (empty_file, damaged_parquet, cut_parquet):
        make(path)
        for read in (lambda: len(open_source(path)), lambda: list(open_stream(path))):
            with pytest.raises(DataError, match=r"data.parquet: not a readable Parquet file: \S.*") as caught:
                read()
            assert "\n" not in str(caught.value)


def test_parquet_of_odd_types(tmp_path: Path) -> None:
    numbers = pa.array([{"bytes": [1, 2], "path": 5}])
    pq.write_table(pa.table({"image": numbers, "caption": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="pictures must be bytes, file names or structs of them, not struct"):
        open_source(tmp_path / "a.parquet")
    features = {"huggingface": json.dumps({"info": {"features": {"label": {"names": 7}}}})}
    table = pa.table({"image": [png(0)], "caption": ["c"], "label": [0]}).replace_schema_metadata(features)
    pq.write_table(table, tmp_path / "b.parquet")
    assert open_source(tmp_path / "b.parquet").label_names is None
    invalid = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"image": [png(0)], "caption": invalid}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"not a readable Parquet file: .*utf-8"):
        open_source(tmp_path / "c.parquet")


def test_tars_are_never_unpacked(tmp_path: Path) -> None:
    """Names that are absolute or lead upwards are keys like any other, and links are nothing."""
    inside = tmp_path / "inside"
    inside.mkdir()
    members = []
    for i, prefix in enumerate(("/", "../../", "/etc/", "a/../../../")):
        members += [(f"{prefix}x{i}.png", png(i)), (f"{prefix}x{i}.txt", b"caption")]
    path = write_tar(inside / "data.tar", members)
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    source = open_source(path)
    assert len(source) == 4
    assert [source.image(i) for i in range(4)] == [png(i) for i in range(4)]
    assert len(list(open_stream(path))) == 4
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/x0.png").exists()


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(b"a.png", b"-0000001000\0") * 3, "not a tar file"),
        (header(b"a.txt", b"00000000001\0") + b"x" * 512 + header(b"b.png", b"-0000002000\0"), "damaged tar: no valid"),
        (header(b"x", b"00000000012\0", b"x") + b"0 path=a.b".ljust(512, b"\0") + bytes(1024), "damaged tar"),
        (header(b"x", b"00000000012\0", b"x") + b"-9 path=ab".ljust(512, b"\0") + bytes(1024), "damaged tar"),
        (header(b"x", b"00000000012\0", b"x") + b"no lengths".ljust(512, b"\0") + bytes(1024), "damaged tar"),
        (header(b"x", b"\x80" + struct.pack(">QHB", 0, 0, 0)[:11], b"L") + bytes(1024), "there is no whole file in"),
        (header(b"x", b"00020000000\0", b"L") + bytes(5 << 20), "damaged tar: a name of 4194304 bytes"),
        (b"", r"there is no whole file in .*: it is empty or cut off"),
    ],
    ids=["back", "back later", "pax 0", "pax back", "pax words", "no name", "long name", "empty"],
)
def test_tars_that_lead_nowhere(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "data.tar"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        open_source(path)


def test_class_names_that_are_no_text(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "data.tar", [*tar_members(0, 1), ("000000000.cls", b"0")])
    (tmp_path / "classnames.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"classnames.txt: cannot be read as UTF-8 text"):
        open_source(path, label_column="cls")


def test_a_tar_with_an_absurd_json(tmp_path: Path) -> None:
    members = [("a.png", png(0)), ("a.json", nested(100_000).encode()), ("a.txt", b"c")]
    assert open_source(write_tar(tmp_path / "data.tar", members)).captions(0) == ["c"]


def test_pictures_may_lie_elsewhere_but_are_pictures(tmp_path: Path) -> None:
    """A name may lead out of the folder: what is read there is decoded, and nothing else can come of it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data").mkdir()
    rows = [{"image": "../secret.txt", "caption": "c"}, {"image": "/dev/zero", "caption": "d"}]
    path = json_lines(tmp_path / "data" / "data.jsonl", rows)
    source = open_source(path)
    assert len(source) == 1
    assert source.bad_rows[0].reason == "empty file: /dev/zero"
    with pytest.raises(DataError, match="not a picture in a known format"):
        decode_image(source.image(0))
