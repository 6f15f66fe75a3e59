"""Several sources in one stream: nothing lost, nothing twice, and the same batches whoever reads them."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
from making_data import png, tar_members, tokenize, write_parquet, write_tar

from mmcontrast.data import PairItem, PairStream, StreamDataset, StreamLoader, mix_streams, open_stream, train_transform
from mmcontrast.data.steady import Patience
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess
from mmcontrast.types import BadRow

TRANSFORM = train_transform(ImagePreprocess(8), "none")
QUICK = Patience(retries=1, first_wait=0.01, timeout=None)
LARGE, SMALL, TARS = 40, 5, 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 rows in 20 row groups, one of 5 in one, and six tars of 3."""
    path: Path = tmp_path_factory.mktemp("mixture")
    for name, rows, group in (("large", LARGE, 2), ("small", SMALL, 9)):
        captions = [f"{name} {i}" for i in range(rows)]
        columns = {"image": [png(i) for i in range(rows)], "caption": captions, "label": list(range(rows))}
        groups = {"group_id": [str(i) for i in range(rows)]}
        write_parquet(path / f"{name}.parquet", pa.table(columns | groups), row_group_size=group)
    (path / "tars").mkdir()
    for number in range(6):
        write_tar(path / "tars" / f"{number}.tar", tar_members(3 * number, 3))
    return path


def opened(folder: Path, *names: str) -> list[PairStream]:
    streams: list[PairStream] = []
    for name in names or ("large.parquet", "small.parquet", "tars"):
        first = sum(stream.num_files for stream in streams)
        streams.append(open_stream(folder / name, patience=QUICK, first_file=first))
    return streams


def mixture(folder: Path, weights: tuple[float, ...] = (4, 1, 3), **options: int) -> StreamDataset:
    stream = mix_streams(opened(folder), weights, 5)
    return StreamDataset(stream, TRANSFORM, seed=5, repeat=True, **({"shuffle_buffer": 6} | options))


def source_of(index: int) -> int:
    file = index >> 32
    return 0 if file < 1 else 1 if file < 2 else 2


def rows_of_epochs(items: list[PairItem], source: int) -> list[Counter[int]]:
    """How often each row of a source came in each of its epochs; one reader's epochs follow one another."""
    epochs: dict[int, Counter[int]] = {}
    for item in items:
        if source_of(item.index) == source:
            assert item.position is not None
            epochs.setdefault(item.position.sources[source].epoch, Counter())[item.index] += 1
    return [epochs[epoch] for epoch in sorted(epochs)]


@pytest.mark.parametrize("readers", [1, 3, 8])
def test_every_epoch_of_every_source_has_each_row_once(folder: Path, readers: int) -> None:
    items: list[PairItem] = []
    for rank in range(readers):
        dataset = mixture(folder, rank=rank, world_size=readers, readers=readers)
        items += islice(dataset, 480 // readers)
    counts = Counter(source_of(item.index) for item in items)
    assert [counts[source] for source in range(3)] == pytest.approx([240, 60, 180], abs=2)
    for source, rows in enumerate((LARGE, SMALL, TARS)):
        epochs = rows_of_epochs(items, source)
        assert all(set(epoch.values()) == {1} for epoch in epochs)  # by no reader twice, and by no two readers
        # A reader may be some epochs ahead of another one; those that all have left are complete.
        assert sum(len(epoch) == rows for epoch in epochs) >= 2
        assert all(len(epoch) == rows for epoch in epochs[: 2 if readers < 8 else 1])
    assert len({item.index for item in items}) == LARGE + SMALL + TARS


def global_batches(folder: Path, ranks: int, workers: int, batches: int) -> list[list[tuple[int, bytes, str]]]:
    found: list[list[tuple[int, bytes, str]]] = [[] for _ in range(batches)]
    for rank in range(ranks):
        dataset = mixture(folder, rank=rank, world_size=ranks, readers=4)
        loader = StreamLoader(dataset, 16 // ranks, tokenize, workers)
        for place, batch in enumerate(islice(loader, batches)):
            assert len(batch) == 16 // ranks
            ids = [str([token for token in row if token]) for row in batch.input_ids.tolist()]
            found[place] += zip(batch.index.tolist(), [row.numpy().tobytes() for row in batch.image], ids, strict=True)
    return found


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 2), (4, 0)])
def test_the_same_global_batches_for_any_number_of_processes(folder: Path, ranks: int, workers: int) -> None:
    expected = global_batches(folder, 1, 0, 8)
    assert global_batches(folder, ranks, workers, 8) == expected
    for batch in expected:
        counts = Counter(source_of(index) for index, _, _ in batch)
        assert abs(counts[0] - 8) <= 1
        assert abs(counts[1] - 2) <= 1


def test_rows_groups_and_classes_of_two_sources_are_not_the_same(folder: Path) -> None:
    stream = mix_streams(opened(folder, "large.parquet", "small.parquet"), [1, 1], 0)
    items = list(islice(StreamDataset(stream, TRANSFORM, repeat=True), 80))
    of_source = [{item.index: item for item in items if source_of(item.index) == source} for source in range(2)]
    assert [len(found) for found in of_source] == [LARGE, SMALL]
    groups, labels = (
        [{getattr(i, name) for i in found.values()} for found in of_source] for name in ("group_key", "label")
    )
    assert not groups[0] & groups[1]
    assert not labels[0] & labels[1]
    assert labels[0] == set(range(LARGE))


def test_a_shard_that_fails_is_recorded_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    good = [write_tar(tmp_path / f"{n}.tar", tar_members(3 * n, 3)) for n in range(3)]
    stream = mix_streams(
        [*opened(folder, "large.parquet"), open_stream(tmp_path, patience=QUICK, first_file=1)], [1, 1], 0
    )
    good[1].unlink()
    items = list(islice(StreamDataset(stream, TRANSFORM, repeat=True, shuffle_buffer=4), 60))
    (bad,) = {row for item in items for row in item.bad_rows}
    assert bad == BadRow(
        str(good[1]), 0, f"the shard is skipped from this row on: {good[1]}: cannot be read: No such file or directory"
    )
    assert Counter(min(item.index >> 32, 1) for item in items) == {0: 30, 1: 30}
    assert {item.index >> 32 for item in items} == {0, 1, 3}


def test_a_source_without_a_usable_row(folder: Path, tmp_path: Path) -> None:
    empty = pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})
    broken = pa.table({"image": [b"no picture"] * 3, "caption": ["a", "b", "c"]})
    for name, data, message in (("empty", empty, "there is no row in it"), ("broken", broken, "no usable row")):
        path = write_parquet(tmp_path / f"{name}.parquet", data)
        streams = [*opened(folder, "large.parquet"), open_stream(path, first_file=1)]
        dataset = StreamDataset(mix_streams(streams, [1, 1], 0), TRANSFORM, repeat=True, readers=2, world_size=2)
        with pytest.raises(DataError, match=rf"{name}\.parquet: {message}"):
            list(islice(dataset, 20))


def test_what_cannot_be_mixed(folder: Path) -> None:
    streams = [*opened(folder, "tars"), open_stream(f"{folder}/./tars/*.tar", first_file=6)]
    with pytest.raises(DataError, match=r"0\.tar is in two sources of data\.train, number 0 .* and number 1"):
        mix_streams(streams, [1, 1], 0)
    with pytest.raises(DataError, match="a mixture has no end"):
        StreamDataset(mix_streams(opened(folder), [1, 1, 1], 0), TRANSFORM)


def test_captions_of_a_mixture_come_from_all_sources(folder: Path) -> None:
    stream = mix_streams(opened(folder), [4, 1, 3], 5)
    captions = [row.captions[0] for row in stream.steady() if not isinstance(row, BadRow)]
    assert len(captions) == LARGE + SMALL + TARS
    assert sum(caption.startswith("large") for caption in captions[:16]) == pytest.approx(8, abs=1)
