"""Embedding by names of model and data."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_runs import CommandLines

import mmcontrast
from mmcontrast.data import PairSource, Row, open_source, open_stream
from mmcontrast.data.steady import Patience, Unit
from mmcontrast.errors import DataError, Interrupted, MMContrastError, ReadError
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.preprocess import decode_image
from mmcontrast.types import BadRow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes() -> PairSource:
    return open_source("synthetic://scenes", split="validation", rows=40)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, scenes: PairSource) -> Path:
    """The scenes as a parquet file of four row groups, in which one row has no caption and one no picture."""
    import pyarrow as pa

    pictures = [scenes.image(i) for i in range(40)]
    captions = [scenes.captions(i)[0] for i in range(40)]
    pictures[7], captions[11] = b"broken", ""
    file = tmp_path_factory.mktemp("table") / "scenes.parquet"
    pq.write_table(pa.table({"picture bytes": pictures, "says": captions}), file, row_group_size=10)
    return file


COLUMNS = {"image_column": "picture bytes", "caption_columns": ["says"]}


def test_features_are_those_of_the_model(tiny_run: Path, table: Path, tmp_path: Path, scenes: PairSource) -> None:
    done, expected = [], []
    model = mmcontrast.DualEncoder.from_pretrained(tiny_run / "model")
    summary = mmcontrast.embed(
        tiny_run / "model",
        table,
        tmp_path / "out",
        shard_rows=16,
        progress=done.append,
        expect=expected.append,
        **COLUMNS,  # type: ignore[arg-type]
    )
    assert (summary["images"], summary["texts"], summary["embed_dim"], summary["bad_rows"]) == (38, 38, 16, 2)
    assert (summary["shards"], sum(done), expected) == (3, 39 + 38, [39 + 39])
    found = mmcontrast.load_features(tmp_path / "out")
    row = next(i for i, row in enumerate(found.rows) if row["row"] == 20)
    assert found.rows[row]["captions"] == scenes.captions(20)[:1]
    np.testing.assert_allclose(found.image[row], model.encode_image([decode_image(scenes.image(20))])[0], atol=1e-5)
    np.testing.assert_allclose(found.text[row], model.encode_text(scenes.captions(20)[:1])[0], atol=1e-5)
    scores, positions = found.search(model.encode_text(scenes.captions(20)[:1]).numpy(), k=50)
    assert positions.shape == (1, 38)
    np.testing.assert_allclose(scores[0], np.sort(np.asarray(found.image) @ found.text[row])[::-1], atol=1e-5)


def test_a_stream_gives_the_same_and_is_gone_on_with(tiny_run: Path, table: Path, tmp_path: Path) -> None:
    mmcontrast.embed(tiny_run / "model", table, tmp_path / "source", shard_rows=8, batch_size=4, **COLUMNS)  # type: ignore[arg-type]
    source = mmcontrast.load_features(tmp_path / "source")

    def stream(**options: object) -> None:
        mmcontrast.embed(
            tiny_run / "model",
            table,
            tmp_path / "stream",
            stream=True,
            shard_rows=8,
            batch_size=4,
            **COLUMNS,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )

    sent: list[int] = []

    def terminate(count: int) -> None:
        sent.append(count)
        if len(sent) == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"stopped by signal 15: complete shards are in .*, the same command goes on"):
        stream(progress=terminate)
    said: list[str] = []
    stream(say=said.append)
    assert "going on after shard 1 (row 16)" in said[0]
    found = mmcontrast.load_features(tmp_path / "stream")
    np.testing.assert_allclose(np.asarray(found.image), np.asarray(source.image), atol=1e-6)
    np.testing.assert_allclose(np.asarray(found.text), np.asarray(source.text), atol=1e-6)
    assert [row["row"] for row in found.rows] == [row["row"] for row in source.rows]
    bad = [(tmp_path / name / "bad_rows.jsonl").read_text().splitlines() for name in ("source", "stream")]
    assert sorted(bad[0]) == sorted(bad[1])
    with pytest.raises(DataError, match="of other data"):  # the same rows, but read in another way
        mmcontrast.embed(tiny_run / "model", table, tmp_path / "stream", shard_rows=8, **COLUMNS)  # type: ignore[arg-type]


def write_shards(folder: Path, scenes: PairSource) -> list[Path]:
    """Three parquet files, each of two row groups of four scenes."""
    import pyarrow as pa

    folder.mkdir()
    files = []
    for number in range(3):
        rows = range(8 * number, 8 * number + 8)
        columns = {"image": [scenes.image(i) for i in rows], "caption": [scenes.captions(i)[0] for i in rows]}
        files.append(folder / f"{number}.parquet")
        pq.write_table(pa.table(columns), files[-1], row_group_size=4)
    return files


def damage(file: Path) -> None:
    """Break the pictures' pages of the second row group: the first can still be read."""
    place = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[place : place + 40] = b"\xff" * 40
    file.write_bytes(data)


def test_a_stream_with_shards_that_fail(
    tiny_run: Path, tmp_path: Path, scenes: PairSource, mmcontrast_command: CommandLines
) -> None:
    whole, broken = (write_shards(tmp_path / name, scenes) for name in ("whole", "broken"))
    damage(broken[1])
    said: list[str] = []
    options: dict[str, Any] = {"stream": True, "batch_size": 4, "shard_rows": 6, "say": said.append}
    summary = mmcontrast.embed(tiny_run / "model", tmp_path / "whole", tmp_path / "all", **options)
    assert (summary["skipped_shards"], summary["missing_rows"], said) == (0, 0, [])
    words = [tmp_path / "broken", "--output", tmp_path / "rest", "--stream", "--batch-size", "4", "--shard-rows", "6"]
    found = mmcontrast_command("embed", tiny_run / "model", *words)
    assert found.code == 3, found.stderr
    assert "1 shard could not be read to the end, and 4 rows are missing: see " in found.stderr
    assert "skipped_shards 1  missing_rows 4" in found.stdout
    (bad,) = [json.loads(line) for line in (tmp_path / "rest" / "bad_rows.jsonl").read_text().splitlines()]
    assert bad["source"] == f"{broken[1]} (row group 1)"
    assert bad["reason"].startswith("the shard is skipped from this row on (4 rows): ")
    ours, theirs = (mmcontrast.load_features(tmp_path / name) for name in ("rest", "all"))
    places = [i for i, row in enumerate(theirs.rows) if not (row["file"] == str(whole[1]) and row["row"] >= 4)]
    assert len(ours.image) == len(places) == 20
    np.testing.assert_allclose(np.asarray(ours.image), np.asarray(theirs.image)[places], atol=1e-6)
    again = mmcontrast.embed(tiny_run / "model", tmp_path / "broken", tmp_path / "rest", **options)
    assert (again["skipped_shards"], again["missing_rows"]) == (1, 4)
    assert said[0].endswith("is complete already")
    assert "4 rows are missing" in said[1]


def test_a_stream_goes_on_behind_a_shard_that_failed(tiny_run: Path, tmp_path: Path, scenes: PairSource) -> None:
    """The part that was given up stays given up: else its rows would be numbered anew in the middle."""
    files = write_shards(tmp_path / "data", scenes)
    stream = open_stream(tmp_path / "data", patience=Patience(retries=1, first_wait=0.01, timeout=None))
    tries: list[int] = []

    def flaky(unit: Unit) -> Unit:
        def read() -> Iterator[Row | BadRow]:
            for place, row in enumerate(unit()):
                if place == 2 and len(tries) < 2:
                    tries.append(place)
                    raise ReadError(f"{files[1]}: reset by peer")
                yield row

        return replace(unit, read=read)

    stream.units[3] = flaky(stream.units[3])
    written: list[int] = []

    def stop(count: int) -> None:
        written.append(count)
        if (tmp_path / "out" / "shards.jsonl").read_text().count("\n") == 3:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"shard_rows": 5, "batch_size": 5}
    with pytest.raises(KeyboardInterrupt):
        mmcontrast.embed(tiny_run / "model", stream, tmp_path / "out", progress=stop, **options)
    said: list[str] = []
    summary = mmcontrast.embed(tiny_run / "model", stream, tmp_path / "out", say=said.append, **options)
    assert "going on after shard 2 (row 15)" in said[0]
    assert said[1].startswith("1 shard could not be read to the end, and 2 rows are missing: see ")
    assert (summary["images"], summary["skipped_shards"], summary["missing_rows"]) == (22, 1, 2)
    rows = [(row["file"], row["row"]) for row in mmcontrast.load_features(tmp_path / "out").rows]
    expected = [(str(file), row) for file in files for row in range(8)]
    assert rows == [place for place in expected if place not in [(str(files[1]), 6), (str(files[1]), 7)]]


def test_pictures_alone_can_be_embedded(tiny_run: Path, tmp_path: Path, scenes: PairSource) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(2):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(bytes(scenes.image(i)))
    for stream in (False, True):
        folder = tmp_path / f"out {stream}"
        summary = mmcontrast.embed(tiny_run / "model", tmp_path / "photos", folder, stream=stream)
        assert (summary["images"], summary["texts"]) == (2, 0)


def test_digest_of_a_model_depends_on_all_that_features_depend_on(tiny_run: Path) -> None:
    one, other = (mmcontrast.DualEncoder.from_pretrained(tiny_run / "model") for _ in range(2))
    assert model_digest(one) == model_digest(other)
    with torch.no_grad():
        next(other.text_encoder.parameters()).flatten()[0] += 1e-6
    assert model_digest(one) != model_digest(other)


def test_a_missing_faiss_is_told_before_the_work(
    tiny_run: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MMContrastError, match=r"an index needs faiss: pip install 'mmcontrast\[index\]'"):
        mmcontrast.embed(tiny_run / "model", table, tmp_path / "out", index=True, **COLUMNS)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
