"""The image cache: its pictures, that it is built once and whole, and what is said when something is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import namedtuple
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from making_data import captions_of, encoded, picture, tokenize, write_csv, write_parquet
from PIL import Image
from torch import Tensor

from mmcontrast.data import (
    Draw,
    GlobalBatchSampler,
    PairDataset,
    PairSource,
    open_source,
    train_loader,
    train_transform,
)
from mmcontrast.data import image_cache_build as building
from mmcontrast.data.image_cache import INDEX, PICTURES, SEAL, CacheSettings, DamagedCache, ImageCache, cache_place
from mmcontrast.data.image_cache_build import expected_bytes, open_image_cache
from mmcontrast.data.image_cache_files import RECORDS
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess, decode_image
from mmcontrast.types import PairBatch

ROWS = 60
BAD = {4: "not a picture in a known format", 33: "picture of 90 x 90 pixels is over the limit of 6000"}
SETTINGS = CacheSettings(side=20, interpolation="bicubic", max_pixels=6000)


def encoded_picture(row: int) -> bytes:
    if row == 4:
        return b"broken"
    if row == 33:
        return encoded(Image.new("RGB", (90, 90)))
    return encoded(picture(row, (12 + row, 70 - row)))


def make_source(folder: Path, rows: int = ROWS) -> PairSource:
    data = pa.table(
        {"image": [encoded_picture(i) for i in range(rows)], "captions": [captions_of(i) for i in range(rows)]}
    )
    return open_source(write_parquet(folder / "pairs.parquet", data))


@pytest.fixture
def source(tmp_path: Path) -> PairSource:
    return make_source(tmp_path)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.name != "lock"}


# What is in it


def test_pictures_are_made_smaller_or_kept_as_they_are(tmp_path: Path, source: PairSource) -> None:
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    assert len(cache) == ROWS
    for row in set(range(ROWS)) - BAD.keys():
        whole = np.asarray(decode_image(source.image(row)))
        kept = cache.get(row)
        height, width = whole.shape[:2]
        if min(whole.shape[:2]) <= 20:
            assert np.array_equal(kept, whole)
        else:
            scale = 20 / min(height, width)
            assert kept.shape == (round(height * scale), round(width * scale), 3)
            expected = decode_image(source.image(row)).resize(kept.shape[1::-1], Image.Resampling.BICUBIC)
            assert np.abs(kept.astype(int) - np.asarray(expected)).max() <= 3


@pytest.mark.parametrize("workers", [1, 2])
def test_the_content_does_not_depend_on_workers(tmp_path: Path, source: PairSource, workers: int) -> None:
    plain = open_image_cache(tmp_path / "plain", source, SETTINGS)
    other = open_image_cache(tmp_path / "other", source, SETTINGS, workers=workers)
    assert contents(plain.folder) == contents(other.folder)
    assert plain.folder.name == other.folder.name


def test_small_pictures_train_the_same_with_and_without_it(tmp_path: Path, source: PairSource) -> None:
    """Pictures that are kept as they are give the same batches bit for bit, with any workers, bad rows included."""
    cache = open_image_cache(tmp_path / "cache", source, replace(SETTINGS, side=100))
    plain = batches(source, None, 0)
    assert {row.row for batch in plain for row in batch.bad_rows} == BAD.keys()
    for workers in (0, 1, 2):
        assert_same(batches(source, pickle.loads(pickle.dumps(cache)), workers), plain)


def test_a_run_with_smaller_pictures_repeats(tmp_path: Path, source: PairSource) -> None:
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    first = batches(source, cache, 0)
    for workers in (1, 2):
        assert_same(batches(source, ImageCache(cache.folder), workers), first)
    pairs = zip(first, batches(source, None, 0), strict=True)
    assert any(not torch.equal(ours.image, plain.image) for ours, plain in pairs)


def batches(source: PairSource, cache: ImageCache | None, workers: int) -> list[PairBatch]:
    transform = train_transform(ImagePreprocess(8), "strong")
    dataset = PairDataset(source, transform, seed=3, max_image_pixels=6000, cache=cache)
    sampler = GlobalBatchSampler(len(dataset), 10, seed=1)
    loader = train_loader(dataset, sampler, tokenize, workers)
    found: list[PairBatch] = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        found += loader  # type: ignore[arg-type]
    return found


def assert_same(ours: list[PairBatch], theirs: list[PairBatch]) -> None:
    for left, right in zip(ours, theirs, strict=True):
        for field in fields(PairBatch):
            x, y = getattr(left, field.name), getattr(right, field.name)
            if field.name == "bad_rows":  # with several workers each meets a bad row for the first time
                assert {row.row for row in x} == {row.row for row in y}
            else:
                assert torch.equal(x, y) if isinstance(y, Tensor) else x == y, field.name


def test_bad_rows_say_what_they_say_without_a_cache(tmp_path: Path, source: PairSource) -> None:
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    transform = train_transform(ImagePreprocess(8), "light")
    for row, reason in BAD.items():
        with pytest.raises(DataError, match=reason):
            cache.get(row)
        items = [
            PairDataset(source, transform, max_image_pixels=6000, cache=one)[Draw(row, 0)] for one in (cache, None)
        ]
        assert items[0].bad_rows == items[1].bad_rows
        assert reason in items[0].bad_rows[0].reason
        assert items[0].index == items[1].index != row


def test_drafts_are_decoded_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(1, (320, 480)).save(folder / "a.jpg", quality=95)
    source = open_source(write_csv(folder / "a.csv", [["image", "caption"], ["a.jpg", "a"]]))
    settings = replace(SETTINGS, side=50, max_pixels=10**6)
    whole = open_image_cache(tmp_path / "cache", source, settings).get(0)
    draft = open_image_cache(tmp_path / "cache", source, replace(settings, draft_side=80)).get(0)
    assert whole.shape == draft.shape == (75, 50, 3)
    assert 0 < np.abs(whole.astype(int) - draft).mean() < 2


# Built once


def test_it_is_built_once(tmp_path: Path, source: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    said: list[str] = []
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS, advance=done.append, say=said.append)
    assert sum(done) == ROWS
    (line,) = said
    assert line.startswith(f"image cache {cache.folder}: 60 pictures, about 0.1 MB")
    monkeypatch.setattr(type(source), "image", lambda self, i: encoded_picture(i) if i == 0 else pytest.fail("read"))
    again = open_image_cache(tmp_path / "cache", source, SETTINGS, advance=done.append, say=said.append)
    assert sum(done) == ROWS
    assert len(said) == 1
    assert np.array_equal(again.get(7), cache.get(7))


def test_the_expected_size_is_about_right(tmp_path: Path, source: PairSource) -> None:
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    size = (cache.folder / PICTURES).stat().st_size
    assert 0.9 * size < expected_bytes(source, SETTINGS) < 1.2 * size


@pytest.mark.parametrize("kill_after", [0, 17, 40])
def test_a_killed_build_goes_on_where_it_was(
    tmp_path: Path, source: PairSource, monkeypatch: pytest.MonkeyPatch, kill_after: int
) -> None:
    whole = contents(open_image_cache(tmp_path / "whole", source, SETTINGS).folder)
    place = killed_build(tmp_path / "cache", source, kill_after)
    assert not (place / SEAL).exists()
    done: list[int] = []
    said: list[str] = []
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS, advance=done.append, say=said.append)
    assert sum(done) == ROWS
    assert done[0] == kill_after // building.BLOCK * building.BLOCK
    assert (f"going on at row {done[0]}" in said[0]) == (done[0] > 0)
    assert contents(cache.folder) == whole


def killed_build(folder: Path, source: PairSource, rows: int) -> Path:
    """A build whose process kills itself when it has read so many rows."""

    def build() -> None:
        original = type(source).image
        reading = building._Decoded.__getitem__

        def dying(self: Any, row: int) -> Any:
            if row == rows:
                os.kill(os.getpid(), signal.SIGKILL)
            return reading(self, row)

        building._Decoded.__getitem__ = dying  # type: ignore[method-assign]
        assert original is type(source).image
        open_image_cache(folder, source, SETTINGS)

    process = multiprocessing.get_context("fork").Process(target=build)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return cache_place(folder, source, SETTINGS)


@pytest.mark.parametrize("damage", ["half a picture", "half a record", "other bytes", "no reasons", "no records"])
def test_what_was_half_written_is_written_anew(tmp_path: Path, source: PairSource, damage: str) -> None:
    whole = contents(open_image_cache(tmp_path / "whole", source, SETTINGS).folder)
    place = killed_build(tmp_path / "cache", source, 40)
    pictures, records, reasons = (place / name for name in (PICTURES, RECORDS, "bad_rows.part"))
    if damage == "half a picture":
        pictures.write_bytes(pictures.read_bytes()[:-100])
    elif damage == "half a record":
        records.write_bytes(records.read_bytes()[:-7])
    elif damage == "other bytes":
        data = bytearray(pictures.read_bytes())
        data[5000] ^= 1
        pictures.write_bytes(bytes(data))
    elif damage == "no reasons":
        reasons.write_text(reasons.read_text().rstrip("\n"))  # cut off in its last line
    else:
        records.unlink()
    done: list[int] = []
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS, advance=done.append)
    assert 0 <= done[0] < 32
    assert contents(cache.folder) == whole


def test_others_wait_for_the_one_that_builds(tmp_path: Path, source: PairSource) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def build() -> None:
        said: list[str] = []
        reading = building._Decoded.__getitem__

        def slow(self: Any, row: int) -> Any:
            time.sleep(0.02)
            return reading(self, row)

        building._Decoded.__getitem__ = slow  # type: ignore[method-assign]
        done: list[int] = []
        cache = open_image_cache(tmp_path / "cache", source, SETTINGS, say=said.append, advance=done.append)
        results.put((sum(done), said, cache.get(7).tobytes()))

    processes = [context.Process(target=build) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=60) for _ in processes), key=lambda result: -result[0])
    for process in processes:
        process.join(60)
    assert [rows for rows, _, _ in found] == [ROWS, 0, 0]
    assert all("waiting for another process that builds it" in said[0] for _, said, _ in found[1:])
    assert len({data for _, _, data in found}) == 1


# What is wrong


def test_another_source_is_another_cache(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    first = open_image_cache(tmp_path / "cache", source, SETTINGS)
    changed = make_source(tmp_path, rows=20)
    said: list[str] = []
    second = open_image_cache(tmp_path / "cache", changed, SETTINGS, say=said.append)
    assert len(second) == 20
    assert second.folder != first.folder
    assert said[1] == (
        f"image cache {first.folder}: of the same source as it was, or with other settings; "
        "remove it if no run needs it"
    )
    os.utime(tmp_path / "pairs.parquet", ns=(1, 1))  # the same size at another time
    assert cache_place(tmp_path / "cache", changed, SETTINGS) != second.folder
    for other in (replace(SETTINGS, side=21), replace(SETTINGS, draft_side=25), replace(SETTINGS, max_pixels=1)):
        assert cache_place(tmp_path / "cache", changed, other) != cache_place(tmp_path / "cache", changed, SETTINGS)


def test_a_changed_picture_file_is_another_cache(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(1).save(tmp_path / name)
    rows = [["image", "caption"], ["a.png", "a"], ["b.png", "b"]]
    source = open_source(write_csv(tmp_path / "a.csv", rows))
    place = cache_place(tmp_path, source, SETTINGS)
    assert cache_place(tmp_path, source, SETTINGS) == place
    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert cache_place(tmp_path, source, SETTINGS) != place


def test_pictures_in_no_file_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    one, same, other = (open_source("synthetic://scenes", rows=3, seed=seed) for seed in (0, 0, 1))
    assert cache_place(tmp_path, one, SETTINGS) == cache_place(tmp_path, same, SETTINGS)
    assert cache_place(tmp_path, one, SETTINGS) != cache_place(tmp_path, other, SETTINGS)


def test_a_saved_data_set_is_known_by_its_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def save(name: str, seed: int) -> PairSource:
        rows = {"image": [picture(seed + i) for i in range(3)], "caption": ["a", "b", "c"]}
        features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / name))
        return open_source(tmp_path / name)

    one, place = save("one", 0), cache_place(tmp_path, save("one", 0), SETTINGS)
    read: list[int] = []
    image = type(one).image
    monkeypatch.setattr(type(one), "image", lambda self, i: (read.append(i), image(self, i))[1])
    assert cache_place(tmp_path, open_source(tmp_path / "one"), SETTINGS) == place
    assert read == [0]  # not all of a data set that may be large
    shutil.rmtree(tmp_path / "one")
    assert cache_place(tmp_path, save("one", 5), SETTINGS) != place


def test_a_damaged_picture_stops_the_training(tmp_path: Path, source: PairSource) -> None:
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    data = bytearray((cache.folder / PICTURES).read_bytes())
    data[len(data) // 2] ^= 1
    (cache.folder / PICTURES).write_bytes(bytes(data))
    message = rf"image cache {cache.folder}: row \d+ of pictures.bin is not what was written; remove the folder"
    for workers in (0, 2):
        with pytest.raises(DamagedCache, match=message) as raised:
            batches(source, ImageCache(cache.folder), workers)
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith("image cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (PICTURES, b"short", r"pictures.bin has 5 bytes instead of \d+"),
        (INDEX, b"x", "index.npy is not what was written"),
        (SEAL, b"{", "cannot be read"),
        (SEAL, b"{}", "cannot be read"),
    ],
)
def test_damaged_files_are_found_on_opening(
    tmp_path: Path, source: PairSource, name: str, content: bytes, message: str
) -> None:
    place = open_image_cache(tmp_path / "cache", source, SETTINGS).folder
    (place / name).write_bytes(content)
    with pytest.raises(
        DamagedCache, match=f"image cache {place}: {message}.*; remove the folder, and it is built anew"
    ):
        open_image_cache(tmp_path / "cache", source, SETTINGS)
    shutil.rmtree(place)
    open_image_cache(tmp_path / "cache", source, SETTINGS)


def test_too_little_room_is_said_before(tmp_path: Path, source: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(building.shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 5000, 5000))
    message = r"data.image_cache: .* needs about 0\.1 MB and the disk has 0\.0 MB free: make room, name a folder on"
    with pytest.raises(DataError, match=message):
        open_image_cache(tmp_path / "cache", source, SETTINGS)
    monkeypatch.undo()
    open_image_cache(tmp_path / "cache", source, SETTINGS)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, source: PairSource, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = building.write, []

    def full(file: Any, data: Any) -> None:
        written.append(len(data))
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        write(file, data)

    monkeypatch.setattr(building, "write", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): make room, or name another"):
        open_image_cache(tmp_path / "cache", source, SETTINGS)
    monkeypatch.undo()
    done: list[int] = []
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS, advance=done.append)
    assert done[0] == 16
    plain = open_image_cache(tmp_path / "plain", source, SETTINGS)
    assert contents(cache.folder) == contents(plain.folder)


def test_a_folder_that_cannot_be_made(tmp_path: Path, source: PairSource) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data.image_cache: .*file/pairs-\w+ cannot be written \(Not a directory\)"):
        open_image_cache(tmp_path / "file", source, SETTINGS)


def test_all_rows_bad(tmp_path: Path) -> None:
    data = pa.table({"image": [b"bad", b"worse"], "caption": ["a", "b"]})
    source = open_source(write_parquet(tmp_path / "a.parquet", data))
    cache = open_image_cache(tmp_path / "cache", source, SETTINGS)
    with pytest.raises(DataError, match="not a picture"):
        cache.get(1)
    seal = json.loads((cache.folder / SEAL).read_text())
    assert seal["bytes"] == 0
