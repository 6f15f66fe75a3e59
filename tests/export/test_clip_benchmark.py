"""CLIP_benchmark, on an export and real data, measures what we measure.

It wants packages of its own; MMCONTRAST_CLIP_BENCHMARK names the interpreter of an environment that has them.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from model_fakes import tiny_spec

from mmcontrast import build
from mmcontrast.export.to_open_clip import write
from mmcontrast.models import DualEncoder, SentencePieceTokenizer, build_dual_encoder, train_sentencepiece

PYTHON = os.environ.get("MMCONTRAST_CLIP_BENCHMARK")
TEMPLATES = ["a photo of a {c}.", "a drawing of a {c}, in grey."]
pytestmark = pytest.mark.skipif(PYTHON is None, reason="MMCONTRAST_CLIP_BENCHMARK names no interpreter")


def rows_of(parquet: Path, count: int, output: Path) -> list[dict[str, Any]]:
    """The first rows, also written as a parquet file of their own."""
    table = pq.read_table(parquet).slice(0, count)
    pq.write_table(table, output)
    return list(table.to_pylist())


def web_dataset(folder: Path, samples: Sequence[dict[str, bytes]]) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number, sample in enumerate(samples):
            for suffix, data in sample.items():
                entry = tarfile.TarInfo(f"{number:06}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


@pytest.fixture(scope="module")
def model(shared_data: Path) -> DualEncoder:
    """Of random weights."""
    captions = pq.read_table(shared_data / "flickr8k" / "train.parquet", columns=["captions"])["captions"].to_pylist()
    words = train_sentencepiece([text for row in captions[:1000] for text in row], 1000)
    spec = tiny_spec(
        {"library": "timm", "name": "resnet10t", "image_size": 64},
        {"library": "bag_of_words", "context_length": 40, "kwargs": {"width": 64}},
        embed_dim=32,
    )
    return build_dual_encoder(spec, SentencePieceTokenizer(words, 40), seed=0).eval()


def benchmark(model: DualEncoder, data: Path, task: str, output: Path) -> dict[str, float]:
    (output / "model").mkdir(parents=True)
    write(model, output / "model")
    options = ["--recall_k", "1", "5", "10"] if task == "zeroshot_retrieval" else []
    command = f"""
        -m clip_benchmark.cli eval --dataset wds/{data.name} --dataset_root {data} --task {task}
        --model local-dir:{output / "model"} --pretrained none --no_amp --num_workers 1 --output {output / "out.json"}
    """
    assert PYTHON is not None
    run = subprocess.run(
        [PYTHON, *command.split(), *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(json.loads((output / "out.json").read_text())["metrics"])


def test_zero_shot(model: DualEncoder, shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of(shared_data / "fashion_mnist" / "val.parquet", 400, tmp_path / "rows.parquet")
    data = tmp_path / "fashion"
    web_dataset(data, [{"png": row["image"]["bytes"], "cls": str(row["label"]).encode()} for row in rows])
    names = [name for _, name in sorted({(row["label"], row["label_name"]) for row in rows})]
    assert len(names) == 10
    (data / "classnames.txt").write_text("\n".join(names))
    (data / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    theirs = benchmark(model, data, "zeroshot_classification", tmp_path / "work")
    ours = build.evaluate(model, tmp_path / "rows.parquet", "zero_shot", templates=TEMPLATES, classnames=names)
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert ours["zero_shot"][name] == pytest.approx(theirs[name], abs=1e-4), name


def test_retrieval(model: DualEncoder, shared_data: Path, tmp_path: Path) -> None:
    rows = rows_of(shared_data / "flickr8k" / "val.parquet", 200, tmp_path / "rows.parquet")
    data = tmp_path / "flickr"
    web_dataset(data, [{"jpg": row["image"]["bytes"], "txt": "\n".join(row["captions"]).encode()} for row in rows])
    (data / "dataset_type.txt").write_text("retrieval")
    theirs = benchmark(model, data, "zeroshot_retrieval", tmp_path / "work")
    ours = build.evaluate(model, tmp_path / "rows.parquet", "retrieval", caption_columns=["captions"])
    for k in (1, 5, 10):  # their "image retrieval" is by a caption
        assert ours["retrieval"][f"text_to_image_recall@{k}"] == pytest.approx(
            theirs[f"image_retrieval_recall@{k}"], abs=1e-4
        )
        assert ours["retrieval"][f"image_to_text_recall@{k}"] == pytest.approx(
            theirs[f"text_retrieval_recall@{k}"], abs=1e-4
        )
