from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource
from torch import Tensor

from mmcontrast import embedding_folder, embedding_shards, load_features
from mmcontrast.data.rows import PairSource
from mmcontrast.data.stream import PairStream, stream_of
from mmcontrast.embedding_folder import EmbedSummary, embed_to_folder
from mmcontrast.embedding_reading import ShardedArray
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow

Data = PairSource | PairStream


def embed(data: Data, folder: Path, encoder: FakeEncoder | None = None, **options: Any) -> EmbedSummary:
    options = {"batch_size": 2, "shard_rows": 3, "model_digest": "m", **options}
    return embed_to_folder(encoder or FakeEncoder(), data, folder, **options)


def small_source() -> FakeSource:
    """Four pictures of seven rows; the second shard of three rows is of bad ones only."""
    return FakeSource(
        codes=[4, None, 2, None, None, None, 9],
        texts=[["number 4", "vier 4"], ["broken"], ["zwei 2"], ["3"], ["3"], ["3"], ["neun 9", "9", "nine 9"]],
        labels=[1, 0, None, 0, 0, 0, 2],
        groups=["g", *[None] * 6],
        bad_rows=[BadRow("fake.parquet", 7, "empty caption")],
    )


def long_source() -> FakeSource:
    codes = [None if i % 9 == 4 else i for i in range(29)]
    return FakeSource(codes=codes, texts=[[f"picture {i}"] * (i % 3) + [f"{i}"] for i in range(29)])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kinds(source: FakeSource) -> list[Data]:
    return [source, stream_of(source, block=4)]


def test_npy_shards_hold_all_features_and_what_they_are_of(tmp_path: Path) -> None:
    encoder, folder = FakeEncoder(), tmp_path / "out" / "features"
    summary = embed(small_source(), folder, encoder)
    assert summary == EmbedSummary("fake.parquet", 3, 6, 8, 5, 3, "npy", "float32")
    assert json.loads((folder / "embed.json").read_text()) == vars(summary)
    image = [np.load(folder / f"image_features-0000{k}.npy", mmap_mode="r") for k in (0, 2)]
    text = [np.load(folder / f"text_features-0000{k}.npy", mmap_mode="r") for k in (0, 2)]
    assert image[0].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(image), encoder.vectors[[4, 2, 9]].detach().numpy())
    np.testing.assert_array_equal(np.concatenate(text), encoder.vectors[[4, 4, 2, 9, 9, 9]].detach().numpy())
    where = {"file": "fake.parquet"}
    rows = [(folder / f"rows-0000{k}.jsonl").read_text(encoding="utf-8").splitlines() for k in (0, 2)]
    assert [json.loads(line) for lines in rows for line in lines] == [
        {"row": 100, **where, "label": 1, "group": "g", "captions": ["number 4", "vier 4"], "texts": [0, 2]},
        {"row": 102, **where, "label": None, "group": None, "captions": ["zwei 2"], "texts": [2, 3]},
        {"row": 106, **where, "label": 2, "group": None, "captions": ["neun 9", "9", "nine 9"], "texts": [3, 6]},
    ]
    bad = [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]
    assert [row["row"] for row in bad] == [7, 101, 103, 104, 105]
    assert len(list(folder.iterdir())) == 6 + 4  # manifest, shards, embed.json, bad rows; nothing else


def test_parquet_shards_are_read_by_datasets(tmp_path: Path) -> None:
    from datasets import load_dataset

    encoder = FakeEncoder()
    embed(small_source(), tmp_path / "out", encoder, format="parquet")
    cache = str(tmp_path / "cache")
    data_files = {kind: str(tmp_path / "out" / f"{kind}-*.parquet") for kind in ("images", "texts")}
    images, texts = (
        load_dataset("parquet", data_files=data_files[kind], split="train", cache_dir=cache).with_format("numpy")
        for kind in ("images", "texts")
    )
    np.testing.assert_array_equal(images["feature"][:], encoder.vectors[[4, 2, 9]].detach().numpy())
    np.testing.assert_array_equal(texts["feature"][:], encoder.vectors[[4, 4, 2, 9, 9, 9]].detach().numpy())
    assert list(images["row"][:]) == [100, 102, 106]
    assert list(texts["image"][:]) == [0, 0, 1, 2, 2, 2]
    assert list(texts["caption"][:2]) == ["number 4", "vier 4"]
    assert pq.read_schema(tmp_path / "out" / "images-00000.parquet").field("feature").type.list_size == 8


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_load_features_reads_across_shards(tmp_path: Path, form: str, half: bool) -> None:
    encoder = FakeEncoder()
    for number, data in enumerate(kinds(long_source())):
        folder = tmp_path / str(number)
        embed(data, folder, encoder, format=form, half=half)
        found = load_features(folder)
        codes = [code for code in long_source().codes if code is not None]
        expected = encoder.vectors[codes].detach().numpy().astype(found.image.dtype)
        assert found.image.dtype == (np.float16 if half else np.float32)
        assert found.image.shape == (len(codes), 8)
        np.testing.assert_array_equal(np.asarray(found.image), expected)
        np.testing.assert_array_equal(found.image[2:20:3], expected[2:20:3])
        np.testing.assert_array_equal(found.image[[5, 25, 0, -1]], expected[[5, 25, 0, -1]])
        np.testing.assert_array_equal(found.image[7], expected[7])
        assert [row["row"] - 100 for row in found.rows] == codes
        assert found.rows[-1] == found.rows[len(codes) - 1]
        start, stop = found.rows[12]["texts"]
        assert found.rows[12]["captions"] == [f"picture {codes[12]}"] * (codes[12] % 3) + [f"{codes[12]}"]
        np.testing.assert_array_equal(found.text[start:stop], np.repeat(expected[12:13], stop - start, axis=0))
        assert found.text_image[start:stop].tolist() == [12] * (stop - start)
        with pytest.raises(IndexError, match=rf"there are {len(codes)} features"):
            found.image[len(codes)]
        with pytest.raises(IndexError, match=rf"there are {len(codes)} rows"):
            found.rows[len(codes)]


def test_stream_and_source_give_the_same(tmp_path: Path) -> None:
    for number, data in enumerate(kinds(long_source())):
        embed(data, tmp_path / str(number))
    source, stream = files(tmp_path / "0"), files(tmp_path / "1")
    assert source.keys() == stream.keys()
    differing = {name for name in source if source[name] != stream[name]}
    assert differing == {"manifest.json", "shards.jsonl"}  # they tell how far which kind of data was read


def stop_at(call: int) -> Callable[[int], None]:
    calls = iter(range(10_000))

    def progress(count: int) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_an_interrupted_call_is_gone_on_with(tmp_path: Path, form: str) -> None:
    for number, data in enumerate(kinds(long_source())):
        whole, parts = tmp_path / f"whole{number}", tmp_path / f"parts{number}"
        embed(data, whole, format=form)
        embedded: list[int] = []
        for call in (1, 5, 9, 100):
            encoder, said, expected = FakeEncoder(), [], []
            try:
                embed(
                    data,
                    parts,
                    encoder,
                    format=form,
                    progress=stop_at(call),
                    say=said.append,
                    expect=expected.append,
                )
            except KeyboardInterrupt:
                with pytest.raises(DataError, match="is not complete"):
                    load_features(parts)
            embedded.append(sum(encoder.image_batches))
            assert not [path for path in parts.iterdir() if path.name.startswith(".")]
        assert files(parts) == files(whole)
        assert "going on after shard" in said[0]
        assert 0 < embedded[-1] < 26  # only what was left
        assert expected[0] < 26 + 55


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_kill_at_any_write_loses_a_shard_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed behind its n-th flush to disk, for all n, is gone on with to the same files."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    data = small_source()
    embed(data, whole)
    flushes, fsync = iter(()), os.fsync

    def killed(descriptor: int) -> None:
        fsync(descriptor)
        if next(flushes, None) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    survived = 0
    for number in range(60):
        child = os.fork()
        if child == 0:
            flushes = iter(range(number, -1, -1))
            monkeypatch.setattr(os, "fsync", killed)
            embed(data, parts)
            os._exit(0)
        survived = os.waitpid(child, 0)[1] == 0
        if survived:
            break
        if number % 4 == 3:  # die again behind a later flush, from an earlier state each time
            for path in parts.iterdir():
                path.unlink()
    assert survived
    assert number > 5
    embed(data, parts)
    assert {name: data for name, data in files(parts).items() if not name.startswith(".")} == files(whole)


def test_a_torn_line_and_a_damaged_file_are_made_again(tmp_path: Path) -> None:
    data, folder = long_source(), tmp_path / "out"
    embed(data, folder)
    before = files(folder)
    with (folder / "shards.jsonl").open("rb+") as file:
        file.truncate(len(before["shards.jsonl"]) - 20)
    embed(data, folder)
    assert files(folder) == before
    with (folder / "text_features-00004.npy").open("rb+") as file:
        file.truncate(140)
    with pytest.raises(DataError, match=r"text_features-00004.npy is missing or cut off: embed again"):
        load_features(folder)
    encoder = FakeEncoder()
    embed(data, folder, encoder)
    assert files(folder) == before
    assert sum(encoder.image_batches) == sum(code is not None for code in data.codes[12:])


def test_a_complete_folder_is_left_as_it_is(tmp_path: Path) -> None:
    data, said = long_source(), []
    summary = embed(data, tmp_path)
    encoder = FakeEncoder()
    assert embed(data, tmp_path, encoder, say=said.append) == summary
    assert encoder.image_batches == []
    assert said == [f"{tmp_path} is complete already"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_digest": "other"}, "holds features of another model: choose another folder"),
        ({"format": "parquet"}, "with format npy, not parquet"),
        ({"shard_rows": 4}, "with shard_rows 3, not 4"),
        ({"half": True}, "with dtype float32, not float16"),
        ({"codes": [1, 2]}, "of other data, or of this as it was before"),
        ({"texts": [["4"]] * 7}, "of other data"),
        ({"labels": [1] * 7}, "of other data"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    embed(small_source(), tmp_path)
    before = files(tmp_path)
    data = small_source()
    for key in changed.keys() & vars(data).keys():
        setattr(data, key, changed[key])
    options = {key: value for key, value in changed.items() if not hasattr(data, key)}
    with pytest.raises(DataError, match=message) as caught:
        embed(data, tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == before


def test_foreign_folders_and_second_writers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "photo.jpg").touch()
    with pytest.raises(DataError, match="holds other files than features; choose a new or empty folder"):
        embed(small_source(), tmp_path / "foreign")
    with pytest.raises(DataError, match="is a file; features need a folder"):
        embed(small_source(), tmp_path / "foreign" / "photo.jpg")

    def embed_there_too(count: int) -> None:
        embed(small_source(), tmp_path / "out")

    with pytest.raises(DataError, match=r"another process writes to .*out"):
        embed(small_source(), tmp_path / "out", progress=embed_there_too)
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        embed(small_source(), tmp_path / "out")
    with pytest.raises(DataError, match=r"no folder of `mmcontrast embed`: it has no manifest.json"):
        load_features(tmp_path / "foreign")


def test_no_decodable_picture_leaves_nothing(tmp_path: Path) -> None:
    message = r"fake.parquet: none of its 2 pictures could be decoded; row 100: .*picture"
    with pytest.raises(DataError, match=message):
        embed(FakeSource([None, None]), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match=message):
        embed(FakeSource([None, None]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_without_captions(tmp_path: Path) -> None:
    for form in ("npy", "parquet"):
        summary = embed(FakeSource([1, 2]), tmp_path / form, format=form)
        assert summary.texts == 0
        found = load_features(tmp_path / form)
        assert (found.image.shape, found.text.shape) == ((2, 8), (0, 8))
        assert found.rows[1]["captions"] == []
        assert not list((tmp_path / form).glob("text*"))


def test_captions_are_embedded_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_folder, "_TEXT_BLOCK", 1)
    embed(small_source(), tmp_path / "small")
    monkeypatch.setattr(embedding_folder, "_TEXT_BLOCK", 16384)
    embed(small_source(), tmp_path / "large")
    assert files(tmp_path / "small") == files(tmp_path / "large")


def test_rows_that_share_a_batch_do_not_depend_on_where_it_was_begun(tmp_path: Path) -> None:
    """Batches end with shards, so that resuming gives the same last bits whatever the arithmetic of a batch."""

    class Batchy(FakeEncoder):
        def encode_image(self, pixels: Tensor) -> Tensor:
            return super().encode_image(pixels) + len(pixels) / 1024

    data = long_source()
    embed(data, tmp_path / "whole", Batchy(), shard_rows=5, workers=2)
    with pytest.raises(KeyboardInterrupt):
        embed(data, tmp_path / "parts", Batchy(), shard_rows=5, progress=stop_at(7))
    embed(data, tmp_path / "parts", Batchy(), shard_rows=5)
    assert files(tmp_path / "whole") == files(tmp_path / "parts")


def test_only_one_shard_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = embedding_shards.write_shard
    monkeypatch.setattr(embedding_folder, "write_shard", lambda *a: sizes.append(len(a[3].images)) or write(*a))
    embed(FakeSource([1] * 30), tmp_path)
    assert sizes == [3] * 10


def test_device_of_the_features_does_not_matter(tmp_path: Path) -> None:
    encoder = FakeEncoder().to(torch.float64)
    embed(small_source(), tmp_path, encoder)
    assert load_features(tmp_path).image[0].dtype == np.float32


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_no_memory_is_taken_for_features_that_are_only_claimed(tmp_path: Path, suffix: str) -> None:
    embed(small_source(), tmp_path, format=suffix)
    (file, *_) = sorted(tmp_path.glob(f"image*00000.{suffix}"))
    claimed = ShardedArray([file], [10**13], 4, "float32")
    with pytest.raises(DataError, match=f"{file.name} is damaged"):
        np.asarray(claimed)


@pytest.mark.parametrize("size", [True, 2**63, 2**21, "8"])
def test_sizes_of_features_that_can_be_none_are_refused(tmp_path: Path, size: object) -> None:
    embed(small_source(), tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "embed_dim": size}))
    with pytest.raises(DataError, match=r"manifest.json is damaged: remove .* and embed again"):
        load_features(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"images": 2**41},
        {"texts": float("inf")},
        *({"files": {f"rows-{x}.jsonl": 1}} for x in ("0" * 300, "٣" * 5, "./0")),
    ],
    ids=range(5),
)
def test_numbers_and_names_of_shards_that_can_be_none_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    embed(small_source(), tmp_path)
    first, _, rest = (tmp_path / "shards.jsonl").read_text().partition("\n")
    (tmp_path / "shards.jsonl").write_text(json.dumps({**json.loads(first), **changed}) + "\n" + rest)
    with pytest.raises(DataError, match=r"shards.jsonl is damaged .*: remove .* and embed again"):
        load_features(tmp_path)


@pytest.mark.parametrize(
    "changed", [{"captions": 5}, {"captions": [1, 2]}, {"texts": [0, 1]}, {"texts": None}, {"more": 1}], ids=str
)
def test_rows_that_were_not_written_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    embed(small_source(), tmp_path)
    file = tmp_path / "rows-00000.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    for line in (json.dumps({**json.loads(lines[0]), **changed}), json.dumps(5), "{}"):
        file.write_text("\n".join([line, *lines[1:]]) + "\n", encoding="utf-8")
        shards = [json.loads(line) for line in (tmp_path / "shards.jsonl").read_text().splitlines()]
        shards[0]["files"][file.name] = file.stat().st_size
        (tmp_path / "shards.jsonl").write_text("".join(json.dumps(shard) + "\n" for shard in shards))
        with pytest.raises(DataError, match=r"rows-00000.jsonl is damaged \(its row 1 is none that was written\)"):
            _ = load_features(tmp_path).text_image


def test_captions_without_features_are_refused(tmp_path: Path) -> None:
    embed(small_source(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "shards.jsonl").read_text().splitlines()]
    lines[0]["texts"] -= 1
    (tmp_path / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"damaged \(6 captions in its rows, 5 features\): remove it"):
        _ = load_features(tmp_path).text_image
