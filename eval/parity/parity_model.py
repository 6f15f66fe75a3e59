"""The model of the comparison: trained here on rows of all the data sets, and written in open_clip's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from mmcontrast import build
from mmcontrast.config import load_config

CONFIG: dict[str, Any] = {
    "model": {
        "embed_dim": 64,
        "image": {
            "library": "open_clip",
            "image_size": 32,
            "kwargs": {"layers": 3, "width": 96, "head_width": 32, "patch_size": 8},
        },
        "text": {"library": "open_clip", "context_length": 40, "kwargs": {"width": 64, "heads": 2, "layers": 2}},
        "tokenizer": {"kind": "sentencepiece", "vocab_size": 4000},
    },
    "data": {"workers": 0, "augmentation": "light"},
    "training": {"global_batch_size": 128, "learning_rate": 1e-3, "trackers": []},
    "evaluation": {"every_epochs": None, "inspect_negatives": 0},
}


def train_and_export(shared: Path, folder: Path, rows: int, epochs: int) -> tuple[Path, Path]:
    """Our model folder, and open_clip's of the same model.

    Args:
        shared: folder of the shared data sets.
        folder: for run, data and export.
        rows: of each data set.
        epochs: of training.
    """
    folder.mkdir(parents=True)
    pq.write_table(_mixture(shared, rows), folder / "train.parquet")
    values = {**CONFIG, "output": str(folder / "run")}
    values["data"] = {**CONFIG["data"], "train": {"path": str(folder / "train.parquet")}}
    values["training"] = {**CONFIG["training"], "epochs": epochs}
    build.train(load_config(values), console=Console(stderr=True))
    model = folder / "run" / "model"
    build.export_model(model, folder / "open_clip", "open_clip")
    return model, folder / "open_clip"


def _mixture(shared: Path, rows: int) -> pa.Table:
    pictures: list[bytes] = []
    captions: list[list[str]] = []
    for name in ("flickr8k", "ucm_captions", "emoji", "cifar10"):
        for row in pq.read_table(shared / name / "train.parquet").slice(0, rows).to_pylist():
            pictures.append(row["image"]["bytes"])
            captions.append(row.get("captions") or [f"a photo of a {row['label_name']}."])
    return pa.table({"image": pictures, "captions": captions})
