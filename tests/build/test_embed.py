"""Embedding by names of model and data."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import mmcontrast
from mmcontrast.data import PairSource, open_source
from mmcontrast.errors import DataError, Interrupted, MMContrastError
from mmcontrast.models.fingerprint import model_digest
from mmcontrast.preprocess import decode_image

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
