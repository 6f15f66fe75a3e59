"""A run that starts from a model of another library, and jobs on such models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "models"))  # the small models of other libraries

from foreign_fakes import hf_clip_folder, open_clip_folder
from tiny_runs import TINY, train

from mmcontrast import build
from mmcontrast.config import load_config
from mmcontrast.data import open_source
from mmcontrast.models import DualEncoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_a_run_starts_from_a_model_of_another_library(library: str, tmp_path: Path) -> None:
    folder = (open_clip_folder if library == "open_clip" else hf_clip_folder)(tmp_path / "start")
    name = f"local-dir:{folder}" if library == "open_clip" else str(folder)
    values: dict[str, Any] = {**TINY, "model": {"init_from": name}, "output": str(tmp_path / "run")}
    run = train(load_config(values, ["training.max_steps=3", "training.learning_rate=1e-3"])).run_dir
    start, end = DualEncoder.from_pretrained(name), DualEncoder.from_pretrained(run / "model")
    assert (end.preprocess, end.tokenizer.context_length) == (start.preprocess, start.tokenizer.context_length)
    assert end.spec.image.kwargs == start.spec.image.kwargs
    moved = [key for key, value in end.state_dict().items() if not torch.equal(value, start.state_dict()[key])]
    assert len(moved) > 10
    near = [torch.dist(value, start.state_dict()[key]) < 0.5 for key, value in end.state_dict().items()]
    assert all(near)  # three small steps from the start, not from new weights


def test_evaluating_and_embedding(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "start")
    data = open_source("synthetic://scenes", split="validation", rows=12)
    by_name = build.evaluate(f"local-dir:{folder}", data, "retrieval")
    assert by_name == build.evaluate(DualEncoder.from_pretrained(folder), data, "retrieval")
    summary = build.embed(folder, data, tmp_path / "features")
    assert (summary["images"], summary["embed_dim"]) == (12, 12)
