"""Shards that fail: for a while, for ever, at once, in their middle, or by saying nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from making_data import tar_members, tokenize, write_parquet, write_tar

from mmcontrast.data import StreamDataset, StreamLoader, open_stream, train_transform
from mmcontrast.data.rows import Row
from mmcontrast.data.steady import Patience, Unit, retried, steady_rows
from mmcontrast.errors import DataError, ReadError
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import BadRow

TRANSFORM = train_transform(ImagePreprocess(8), "light")
QUICK = Patience(retries=3, first_wait=0.01, timeout=None)


class Flaky:
    """Twenty rows; each reading breaks off where the next of `breaks` says."""

    def __init__(self, breaks: list[int], error: Exception | None = None) -> None:
        self.breaks, self.error, self.opened = list(breaks), error or ReadError("f: reset by peer"), 0

    def __call__(self) -> Iterator[Row | BadRow]:
        self.opened += 1
        stop = self.breaks.pop(0) if self.breaks else 99
        for i in range(20):
            if i == stop:
                raise self.error
            yield BadRow("f", i, "no caption") if i == 4 else Row(b"", ["x"], None, None, "f", i, i)


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("breaks", [[], [0], [7], [3, 5, 5, 19], [0, 0, 0], [5, 5, 5, 6, 6, 6, 7]])
def test_a_shard_that_recovers_gives_each_row_once(breaks: list[int], timeout: float | None) -> None:
    read = Flaky(breaks)
    rows = list(steady_rows(Unit(read, "f"), Patience(3, 0.001, timeout)))
    assert [row.row for row in rows] == list(range(20))
    assert read.opened == len(breaks) + 1


def test_a_shard_that_does_not_is_skipped_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    read = Flaky([7] * 9)
    with caplog.at_level(logging.WARNING):
        *rows, last = steady_rows(Unit(read, "f.tar"), QUICK)
    assert [row.row for row in rows] == list(range(7))
    assert isinstance(last, BadRow)
    assert (last.source, last.row) == ("f.tar", 7)
    assert last.reason == "the shard is skipped from this row on: 4 tries: f: reset by peer"
    assert read.opened == 4
    waits = [record.getMessage() for record in caplog.records if "try" in record.getMessage()]
    assert [line.split(" in ")[1] for line in waits[:3]] == ["0.0 s", "0.0 s", "0.0 s"]
    assert [line.split("; ")[1].split(" in ")[0] for line in waits[:3]] == [f"try {n} of 3" for n in (1, 2, 3)]


def test_waits_grow() -> None:
    start = time.monotonic()
    list(steady_rows(Unit(Flaky([0] * 9), "f"), Patience(3, 0.05, None)))
    assert time.monotonic() - start >= 0.05 + 0.1 + 0.2


def test_damage_is_not_tried_again() -> None:
    read = Flaky([7], DataError("f: damaged"))
    rows = list(steady_rows(Unit(read, "f"), QUICK))
    assert len(rows) == 8
    assert read.opened == 1
    with pytest.raises(ZeroDivisionError):  # a mistake of ours is not swallowed
        list(steady_rows(Unit(Flaky([7], ZeroDivisionError()), "f"), Patience(timeout=5)))


def test_retried() -> None:
    calls = []

    def function() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ReadError("x")
        return 5

    assert retried(function, QUICK) == 5
    calls.clear()
    with pytest.raises(ReadError):
        retried(function, Patience(retries=1, first_wait=0))


def shards(folder: Path, count: int = 4) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [write_tar(folder / f"{n}.tar", tar_members(3 * n, 3)) for n in range(count)]


def test_bad_shards_are_left_out_with_a_record(tmp_path: Path) -> None:
    files = shards(tmp_path / "t", 5)
    stream = open_stream(tmp_path / "t", patience=QUICK)
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:1500])
    data = bytearray(files[3].read_bytes())
    data[512 * 4 : 512 * 5] = b"\xff" * 512
    files[3].write_bytes(data)
    items = list(StreamDataset(stream, TRANSFORM))
    bad = {row.source: row.reason for item in items for row in item.bad_rows}
    assert bad.keys() == {str(file) for file in files[1:4]}
    assert "No such file" in bad[str(files[1])]
    assert "cut off" in bad[str(files[2])]
    assert "damaged tar" in bad[str(files[3])]
    assert 6 <= len(items) < 15


def test_a_parquet_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for n in range(3):
        write_parquet(tmp_path / "p" / f"{n}.parquet")
    (tmp_path / "p" / "0.parquet").write_bytes(b"")
    stream = open_stream(tmp_path / "p", patience=QUICK)
    items = list(StreamDataset(stream, TRANSFORM))
    assert len(items) == 12
    (bad,) = [row for item in items for row in item.bad_rows]
    assert bad.source == str(tmp_path / "p" / "0.parquet")
    assert "not a readable Parquet file" in bad.reason
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(stream)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_that_stalls_is_reported_and_left_behind(tmp_path: Path, workers: int) -> None:
    files = shards(tmp_path / "t")
    stream = open_stream(tmp_path / "t", patience=Patience(retries=1, first_wait=0.01, timeout=0.3))
    files[2].unlink()
    os.mkfifo(files[2])  # opening it waits for a writer, who never comes
    start = time.monotonic()
    loader = StreamLoader(StreamDataset(stream, TRANSFORM), 1, tokenize, workers)
    batches = list(loader)
    assert time.monotonic() - start < 30
    assert len(batches) == 9
    (bad,) = [row for batch in batches for row in batch.bad_rows]
    assert bad.source == str(files[2])
    assert bad.reason.endswith(f"2 tries: {files[2]}: stalled: no row has come for 0.3 s")
    del loader
    os.close(os.open(files[2], os.O_WRONLY | os.O_NONBLOCK) if workers == 0 else os.open(files[1], os.O_RDONLY))


def test_a_stream_that_is_dropped_leaves_no_thread(tmp_path: Path) -> None:
    shards(tmp_path / "t", 1)
    before = threading.active_count()
    for _ in range(5):
        rows = open_stream(tmp_path / "t").steady()
        next(rows)
        del rows
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
