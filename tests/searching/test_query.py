"""Words or a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from searching_fakes import paint

from mmcontrast.errors import DataError
from mmcontrast.searching import read_queries, read_query


def test_words_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = paint(tmp_path / "a.png", 1)
    monkeypatch.chdir(tmp_path)
    assert read_query("  a red bus ").words == "a red bus"
    assert read_query("a red bus").picture is None
    assert read_query("a.png").picture is not None
    assert read_query(picture).picture is not None
    assert read_query("a.png", "text").picture is None
    assert read_query("what? a/b: c*" + "x" * 5000).picture is None  # longer than a name of a file can be
    assert read_query(Image.new("RGB", (4, 4))).picture is not None


def test_a_file_that_is_no_picture_can_be_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog").write_text("woof")
    (tmp_path / "cat").mkdir()
    paint(tmp_path / "bird", 1, "PNG")
    assert read_query("dog").picture is None
    assert read_query("cat").picture is None
    assert read_query("bird").picture is not None
    with pytest.raises(DataError, match=r"query dog: not a picture in a known format$"):
        read_query("dog", "picture")


@pytest.mark.parametrize("empty", ["", "  \n\t "])
def test_no_words(empty: str) -> None:
    with pytest.raises(DataError, match="the query is empty"):
        read_query(empty)


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(DataError, match=r"broken.jpg: .*picture.*; --text searches for these words"):
        read_query(str(tmp_path / "broken.jpg"))
    with pytest.raises(DataError, match=r"absent.jpg: no such picture; --text"):
        read_query(str(tmp_path / "absent.jpg"))
    with pytest.raises(DataError, match=r"absent.jpg: no such picture$"):
        read_query(str(tmp_path / "absent.jpg"), "picture")
    with pytest.raises(DataError, match=r"no such picture"):
        read_query(tmp_path)


def test_queries_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "queries.txt"
    file.write_text("\ufeffa red bus\n\n  two dogs \n", encoding="utf-8")
    assert [query.words for query in read_queries(file)] == ["a red bus", "two dogs"]
    file.write_text("\n \n")
    with pytest.raises(DataError, match="no query in it"):
        read_queries(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="queries cannot be read: not UTF-8 text"):
        read_queries(file)
    with pytest.raises(DataError, match="queries cannot be read: No such file"):
        read_queries(tmp_path / "absent.txt")
