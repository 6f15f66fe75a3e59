"""Cells of the benchmark, trained through the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import negatives
import negatives_data
import negatives_encoder
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from negatives_cells import (
    Plan,
    cell_config,
    data_of,
    fingerprint,
    inject_twins,
    last_logged,
    mean_seconds,
    median_seconds,
    run_cell,
    steps_of,
)
from negatives_data import CLASS_WORDS
from negatives_encoder import TICKET, read_features, read_tickets, ticket
from negatives_methods import METHODS, Cell
from negatives_setups import SETUPS
from rich.console import Console
from torch import Tensor

from mmcontrast import load_config
from mmcontrast.build.run import prepare
from mmcontrast.preprocess import decode_image

TINY: dict[str, Any] = {
    "model": {
        "embed_dim": 16,
        "image": {"name": "resnet10t", "image_size": 32, "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}},
        "text": {"library": "bag_of_words", "context_length": 24},
        "tokenizer": {"vocab_size": 300},
    }
}
SCENES = replace(
    SETUPS["scenes"], rows=80, epochs=2, config=TINY, validation_rows=20, batches=(20,), methods_left_out=frozenset()
)
CELL = Cell("scenes", "natural", 20, "infonce", 1)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_cell(CELL, Plan(14.0), tmp_path_factory.mktemp("cache"), SCENES)


def test_a_record_says_what_was_trained_and_reached(record: dict[str, Any]) -> None:
    assert record["cell"] == "scenes/natural/20/infonce/1"
    assert record["steps"] == 2 * 80 // 20
    assert set(record["metrics"]) == {"map@r", "image_to_text_map@r", "text_to_image_map@r", "mean_recall"}
    assert all(0 <= value <= 1 for value in record["metrics"].values())
    assert record["logged"]["loss"] > 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_cell_is_reproducible_and_its_seed_and_method_matter(record: dict[str, Any], tmp_path: Path) -> None:
    again = run_cell(CELL, Plan(14.0), tmp_path, SCENES)
    assert again["metrics"] == record["metrics"]
    assert again["fingerprint"] == record["fingerprint"]
    other = run_cell(replace(CELL, method="sigmoid"), Plan(14.0), tmp_path, SCENES)
    assert other["logged"]["loss"] != record["logged"]["loss"]
    assert other["fingerprint"] != record["fingerprint"]


def test_seconds_a_step_of_a_log() -> None:
    lines = [{"global_step": i, "loss": 2.0, "seconds_per_step": s} for i, s in enumerate((9.0, 1.0, 2.0, 6.0))]
    history = [*lines, {"global_step": 4, "split": "validation", "acc1": 0.5}]
    assert median_seconds(history) == 2.0
    assert mean_seconds(history) == 4.0
    assert last_logged(history) == {"loss": 2.0}


def test_less_time_is_fewer_steps() -> None:
    assert steps_of(CELL, SCENES, Plan(14.0, share_of_steps=0.5)) == 4


@pytest.mark.parametrize("dataset", list(SETUPS))
@pytest.mark.parametrize("method", list(METHODS))
def test_every_config_is_a_config(dataset: str, method: str, tmp_path: Path) -> None:
    setup = SETUPS[dataset]
    for name, setting in setup.settings.items():
        cell = Cell(dataset, name, 128, method, 1)
        config = load_config(cell_config(cell, Plan(7.0), setup, {"path": "synthetic://scenes"}, tmp_path))
        assert config.model.logit_scale == 7.0
        epochs = setup.pretrained_epochs if setting.pretrained else setup.epochs
        assert config.training.max_steps == epochs * setup.rows // 128
        assert config.model.image.image_size == (
            TICKET if setting.pretrained else setup.config["model"]["image"]["image_size"]
        )
        assert config.evaluation.every_epochs is None
        assert config.data.group_column is None


def test_a_pretrained_cell_trains_on_features_of_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from files to metrics, with features that say the class in the place of the real weights."""
    names = list(CLASS_WORDS)
    for part, rows in (("train", 60), ("val", 20)):
        shades = [(number, number % 10) for number in range(rows)]
        stream = [{"bytes": ticket(1000 * (part == "val") + number)} for number, _ in shades]  # any small picture does
        table = pa.table({"image": stream, "label_name": [names[label] for _, label in shades]})
        (tmp_path / "cifar10").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "cifar10" / f"{part}.parquet")

    def features(pictures: list[bytes]) -> Tensor:
        numbers = torch.tensor([int(read_tickets(np.array(decode_image(x))[None, ..., 0])[0][0]) for x in pictures])
        return torch.nn.functional.one_hot(numbers % 10, 1280).float()[:, None].expand(-1, 4, -1).contiguous()

    monkeypatch.setattr(negatives_data, "DATA", tmp_path)
    monkeypatch.setattr(negatives_encoder, "turned_features", features)
    setup = replace(SETUPS["cifar10"], rows=60, pretrained_epochs=20)
    cell = Cell("cifar10", "pretrained", 20, "infonce", 1)
    record = run_cell(cell, Plan(7.0), tmp_path / "cache", setup)
    assert record["steps"] == 20 * 60 // 20
    assert (
        record["metrics"]["acc1"] > 0.6
    )  # chance is .1; the features give the class away, so only a broken path could miss it
    assert fingerprint(cell, Plan(7.0), setup) != fingerprint(replace(cell, setting="class-captions"), Plan(7.0), setup)


def test_features_take_the_place_of_a_dual_encoders_trunk_only(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        read_features(torch.nn.Linear(2, 2), tmp_path / "none")


def test_tuning_measures_another_split_of_scenes(tmp_path: Path) -> None:
    tuning = replace(CELL, tuning_scale=7.0)
    assert data_of(tuning, SCENES, tmp_path)[1]["split"] == "test"
    assert data_of(CELL, SCENES, tmp_path)[1]["split"] == "validation"


def test_twins_reach_the_batches_of_a_run(tmp_path: Path) -> None:
    config = load_config(cell_config(CELL, Plan(14.0), SCENES, data_of(CELL, SCENES, tmp_path)[0], tmp_path / "run"))
    run = prepare(config, Console(quiet=True))
    inject_twins(run, 0.5, seed=1)
    batches = list(run.trainer.batches.epoch(0, 0))
    assert len(batches) == 4
    for batch in batches:
        indices = batch.index.tolist()
        assert sum(index ^ 1 in indices for index in indices) >= 10


def call(monkeypatch: pytest.MonkeyPatch, words: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["negatives.py", *words])
    return negatives.main()


def test_a_benchmark_runs_resumes_and_writes_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(negatives.SETUPS, "scenes", SCENES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    usual = ["--datasets", "scenes", "--methods", "infonce", "duplicates", "--output", str(tmp_path)]
    where = [*usual, "--cache", str(tmp_path / "cache")]
    named = [f"scenes/natural/{name}/1" for name in ("500/infonce", "20/infonce", "20/duplicates")]
    assert call(monkeypatch, [*where, "--only", *named]) == 1  # a batch of 500 out of 80 rows
    cells = (tmp_path / "negatives_cells.jsonl").read_text()
    assert len(cells.splitlines()) == 2  # a cell that fails leaves the others alone
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "3/3" in printed
    assert "scenes/natural/500/infonce/1 failed: ConfigError" in printed
    assert call(monkeypatch, [*where, "--seeds", "1"]) == 0  # nothing is left to do
    assert (tmp_path / "negatives_cells.jsonl").read_text() == cells
    assert "2 of 2 cells are done" in capsys.readouterr().out
    entries = json.loads((tmp_path / "negatives.json").read_text())
    assert {entry["method"] for entry in entries} == {"infonce", "duplicates"}
    assert "### scenes, natural, batch 20: map@r" in (tmp_path / "negatives.md").read_text()
    assert call(monkeypatch, [*where, "--seeds", "1", "2", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "done scenes/natural/20/infonce/1",
        "done scenes/natural/20/duplicates/1",
        "due  scenes/natural/20/infonce/2",
        "due  scenes/natural/20/duplicates/2",
    ]
