from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import pytest
from making_data import captions_of, png, tar_members, write_tar

from mmcontrast.data import open_source
from mmcontrast.data.tar_index import tar_members as read_members
from mmcontrast.errors import DataError


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_agree_with_tarfile(tmp_path: Path, format: int) -> None:
    members = [("a.txt", b"x"), ("folder/" + "n" * 90 + ".txt", b"y" * 512), ("empty.txt", b""), ("ü.txt", b"z" * 700)]
    if format != tarfile.USTAR_FORMAT:
        members.append(("long/" * 40 + "b.txt", b"w" * 1500))
    path = write_tar(tmp_path / "a.tar", members, format)
    with tarfile.open(path) as tar, path.open("rb") as raw:
        expected = [(info.name, info.offset_data, info.size) for info in tar.getmembers()]
        assert [(m.name, m.offset, m.size) for m in read_members(raw, "a") if m] == expected
    assert [name for name, _, _ in expected] == [name for name, _ in members]


def test_samples_of_several_tars(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05}.tar", tar_members(3 * shard, 3))
    source = open_source(tmp_path / "{00000..00001}.tar")
    assert source.columns.captions == ("txt",)
    assert source.columns.image == "png"
    assert len(source) == 6
    assert [source.captions(i) for i in range(6)] == [captions_of(i) for i in range(6)]
    assert [source.image(i) for i in range(6)] == [png(i) for i in range(6)]
    assert [source.row_number(i) for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert source.group(3) == "g1"  # a field of the .json
    assert len(open_source(tmp_path)) == 6
    assert len(open_source(tmp_path, rows=4)) == 4
    assert pickle.loads(pickle.dumps(source)).image(4) == png(4)


def test_fields_of_json_can_be_asked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", tar_members(0, 2))
    source = open_source(tmp_path / "a.tar", caption_columns=["caption", "txt"], group_column="key")
    assert source.captions(1) == ["json 1", "caption 1 first", "caption 1 second"]
    assert source.group(1) == "000000001"
    with pytest.raises(DataError, match=r"no column 'title'; columns found: .*'txt'.*'png'|'png'.*'txt'"):
        open_source(tmp_path / "a.tar", caption_columns="title")


def test_classes_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    members = [item for i in range(3) for item in ((f"s{i}.png", png(i)), (f"s{i}.cls", str(i % 2).encode()))]
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", members)
    source = open_source(tmp_path / "test")
    assert source.label_names == ["cat", "dog"]
    assert [source.label(i) for i in range(3)] == [0, 1, 0]
    assert source.columns.captions == ()


def test_incomplete_samples_are_bad_rows(tmp_path: Path) -> None:
    members = [
        ("a.png", png(0)),
        ("a.txt", b"a"),
        ("b.txt", b"no picture"),
        ("c.png", png(1)),
        ("d.png", b""),
        ("d.txt", b"empty picture"),
        ("e.v1.jpg", png(2)),
        ("e.txt", b"e"),
    ]
    source = open_source(write_tar(tmp_path / "a.tar", members))
    assert [source.captions(i) for i in range(len(source))] == [["a"], ["e"]]
    assert source.image(1) == png(2)
    reasons = {bad.row: bad.reason for bad in source.bad_rows}
    assert reasons[1] == "no picture of key b: only txt"
    assert "'txt' empty or missing" in reasons[2]
    assert reasons[3] == "empty picture of key d"


def test_damaged_tars(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", tar_members(0, 4)).read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 3])
    source = open_source(tmp_path / "cut.tar")
    assert 0 < len(source) < 4
    assert [bad.row for bad in source.bad_rows] == [len(source)]
    assert "the tar is cut off at member" in source.bad_rows[0].reason
    offset = data.find(b"000000002.json")
    (tmp_path / "broken.tar").write_bytes(data[:offset] + b"garbage" + data[offset + 7 :])
    with pytest.raises(DataError, match=rf"broken.tar: damaged tar: no valid header at byte {offset}"):
        open_source(tmp_path / "broken.tar")
    (tmp_path / "no.tar").write_bytes(b"\x1f\x8b" + b"x" * 2000)
    with pytest.raises(DataError, match=r"no.tar: not a tar file"):
        open_source(tmp_path / "no.tar")
    (tmp_path / "empty.tar").write_bytes(b"\0" * 1024)
    with pytest.raises(DataError, match=r"empty.tar: it is empty or cut off"):
        open_source(tmp_path / "empty.tar")
