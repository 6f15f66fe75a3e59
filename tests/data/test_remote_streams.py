"""Shards behind URLs, over fsspec: in memory, and through a file system that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from making_data import table, tar_members, tokenize, write_parquet, write_tar

from mmcontrast.data import StreamDataset, StreamLoader, open_source, open_stream, train_transform
from mmcontrast.data.rows import Row
from mmcontrast.data.steady import Patience
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import BadRow

TRANSFORM = train_transform(ImagePreprocess(8), "light")
QUICK = Patience(retries=3, first_wait=0.01, timeout=20)


class FailingFileSystem(MemoryFileSystem):
    """Memory whose files cannot be opened the first few times; its errors are of no kind that Python knows."""

    protocol = "failing"
    failures: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://")))

    def open(self, path: str, *args: Any, **options: Any) -> Any:
        name = path.rsplit("/", 1)[-1]
        if self.failures[name] > 0:
            self.failures[name] -= 1
            raise type("DriverError", (Exception,), {})("503 slow down")
        return super().open(path, *args, **options)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for n in range(3):
        system.pipe(f"/b/train-{n}.tar", write_tar(tmp_path / f"{n}.tar", tar_members(4 * n, 4)).read_bytes())
        system.pipe(f"/b/train-{n}.parquet", write_parquet(tmp_path / f"{n}.parquet", table(4)).read_bytes())
    system.pipe("/tars/train/0.tar", system.cat("/b/train-0.tar"))
    system.pipe("/tars/val/0.tar", system.cat("/b/train-1.tar"))
    yield "memory://b"
    system.rm("/", recursive=True)
    FailingFileSystem.failures.clear()


def rows_of(path: str, **options: Any) -> list[tuple[Any, ...]]:
    rows = [row for row in open_stream(path, **options) if isinstance(row, Row)]
    return [(row.image, row.captions, row.label, row.group, row.index) for row in rows]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_urls_hold_what_the_files_hold(tmp_path: Path, memory: str, kind: str, scheme: str) -> None:
    root = "memory://b/train-" if scheme == "memory" else f"file://{tmp_path}/"
    local = rows_of(f"{tmp_path}/*.{kind}")
    assert len(local) == 12
    for pattern in (f"{root}*.{kind}", f"{root}{{0..2}}.{kind}", f"{root}{{0,1,2}}.{kind}"):
        assert rows_of(pattern) == local
    assert rows_of(f"{root}1.{kind}") == [(*row[:4], row[4] - (1 << 32)) for row in local[4:8]]


def test_folders_and_splits_behind_urls(memory: str) -> None:
    assert len(rows_of("memory://tars/train")) == 4
    assert rows_of("memory://tars", split="val") == rows_of("memory://tars/val")
    assert rows_of("memory://b", format="tar") == rows_of("memory://b/*.tar")
    with pytest.raises(DataError, match="behind URLs only Parquet files or only tars are read"):
        open_stream("memory://b")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://b/none-*.tar", "no such file or folder"),
        ("memory://b/none.tar", "none.tar: cannot be read: "),
        ("memory://b/data.csv", "behind URLs only Parquet files or only tars"),
        ("nonsense://b/x.tar", "nonsense://b/x.tar: Protocol not known"),
    ],
)
def test_urls_that_lead_nowhere(memory: str, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_stream(path, patience=QUICK)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")])
def test_a_driver_that_is_missing_is_named(scheme: str, package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(DataError, match=rf"{scheme}:// needs the package {package}: pip install {package}"):
            open_stream(f"{scheme}://bucket/{{00..07}}.tar")
    else:
        pytest.skip(f"{package} is installed")


def test_map_style_sources_refuse_urls(memory: str) -> None:
    with pytest.raises(DataError, match=r"only streamed \(data.streaming: true\)"):
        open_source("memory://b/*.tar")


def test_pictures_must_be_in_the_row(tmp_path: Path, memory: str) -> None:
    import pyarrow as pa

    data = pa.table({"image": ["a.png", "b.png"], "caption": ["a", "b"]})
    fsspec.filesystem("memory").pipe("/n.parquet", write_parquet(tmp_path / "n.parquet", data).read_bytes())
    reasons = [row.reason for row in open_stream("memory://n.parquet") if isinstance(row, BadRow)]
    assert len(reasons) == 2
    assert "behind URLs pictures must be bytes" in reasons[0]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_every_row_once_over_ranks_and_workers(memory: str, kind: str) -> None:
    expected = sorted(row[4] for row in rows_of(f"{memory}/*.{kind}"))
    for ranks, workers in ((1, 0), (1, 2), (2, 0), (2, 2), (3, 1), (8, 0), (5, 2)):  # 3 tars: fewer than shares
        found = []
        for rank in range(ranks):
            dataset = StreamDataset(
                open_stream(f"{memory}/*.{kind}"), TRANSFORM, rank=rank, world_size=ranks, shuffle_buffer=3
            )
            found += [int(batch.index[0]) for batch in StreamLoader(dataset, 1, tokenize, workers)]
        assert sorted(found) == expected, (ranks, workers)


def test_shares_stay_about_equally_long_where_units_are_few(memory: str) -> None:
    stream = open_stream(f"{memory}/*.tar")
    for count in (4, 5, 7):
        lengths = [sum(1 for unit in stream.shard(n, count, 3, 1) for _ in unit()) for n in range(count)]
        assert sum(lengths) == 12
        assert max(lengths) - min(lengths) <= 3, lengths  # a row for each unit


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_service_that_fails_for_a_while(memory: str, kind: str) -> None:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    expected = rows_of(f"{memory}/*.{kind}")
    FailingFileSystem.failures[f"train-0.{kind}"] = 2  # of the first file the columns are read
    stream = open_stream(f"failing://b/train-{{0..2}}.{kind}", patience=QUICK)
    FailingFileSystem.failures.update({f"train-0.{kind}": 2, f"train-1.{kind}": 3})
    rows = [(r.image, r.captions, r.label, r.group, r.index) for r in stream.steady() if isinstance(r, Row)]
    assert rows == expected
    FailingFileSystem.failures[f"train-1.{kind}"] = 100
    *_, last = (row for row in stream.steady() if isinstance(row, BadRow))
    assert last.source.startswith(f"failing://b/train-1.{kind}")
    assert "4 tries" in last.reason
    assert "503 slow down" in last.reason
