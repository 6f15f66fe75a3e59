"""Whole runs with one fault each: a batch of NaN under every rule that learns, an output that nobody may write to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import config_of
from tiny_runs import CommandLines, metric_lines, tiny_config, train

from mmcontrast.config import dump_config
from mmcontrast.errors import TrainingError
from mmcontrast.models import DualEncoder
from mmcontrast.training.trainer import Trainer
from mmcontrast.types import Features

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_bad_batch_spoils_nothing_that_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrator, clusters, moving average and batch norm all see the batch before anybody knows that it is bad."""
    step, forward = Trainer.step, DualEncoder.forward
    now, rows = [0], {}

    def counting(self: Trainer, batch: Any) -> None:
        now[0] = self.progress.global_step + 1
        rows[now[0]] = batch.index.tolist()
        step(self, batch)
        now[0] = 0

    def poisoned(self: DualEncoder, *inputs: torch.Tensor) -> Features:
        features = forward(self, *inputs)
        # Two rows of one batch, and all of another.
        bad = torch.tensor({7: [3, 11], 15: list(range(20))}.get(now[0], []), dtype=torch.long)
        return replace(features, image=features.image.index_fill(0, bad, float("nan")))

    monkeypatch.setattr(Trainer, "step", counting)
    monkeypatch.setattr(DualEncoder, "forward", poisoned)
    run = train(config_of(tmp_path / "run")).run_dir
    found = [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]
    assert [line["global_step"] for line in found] == [7, 15]
    assert found[0]["rows"] == rows[7]
    assert found[0]["broken"] == [rows[7][3], rows[7][11]]
    assert found[1]["broken"] == rows[15]
    logged = [line for line in metric_lines(run) if "loss" in line]
    assert logged[-1]["bad_steps"] == 2
    for line in logged:
        assert [key for key, value in line.items() if value is None] == []
    state = torch.load(max((run / "checkpoints").iterdir()) / "state.pt", weights_only=True)
    assert state["objective"]["weighting"]["calibrator"]["numbers"][4] > 0
    assert not_finite(state) == []


def not_finite(state: Any, where: str = "") -> list[str]:
    """Places in a checkpoint that hold NaN or infinity."""
    if isinstance(state, dict):
        return [name for key, value in state.items() for name in not_finite(value, f"{where}.{key}")]
    if isinstance(state, list | tuple):
        return [name for key, value in enumerate(state) for name in not_finite(value, f"{where}.{key}")]
    value = torch.as_tensor(state) if isinstance(state, torch.Tensor | float) else torch.zeros(0)
    return [] if bool(torch.isfinite(value).all()) else [where]


def test_an_output_that_cannot_be_written(tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(tmp_path / "file" / "run")))
    finished = mmcontrast_command("train", tmp_path / "tiny.yaml")
    assert finished.code == 1
    assert finished.error == f"output: cannot write to {tmp_path}/file/run: Not a directory"


def test_damage_is_said_and_gone_around(tiny_run: Path, tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    """The newest checkpoint lost a byte: the run goes on from the one before, and ends as it should."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(run)))
    newest = run / "checkpoints" / "step-00000018"
    data = bytearray((newest / "state.pt").read_bytes())
    data[len(data) // 2] ^= 4
    (newest / "state.pt").write_bytes(data)
    finished = mmcontrast_command("train", tmp_path / "tiny.yaml", "--resume")
    assert finished.code == 0, finished.stderr
    (warning,) = [line for line in finished.stderr.splitlines() if line.startswith("warning:")]
    assert warning == (
        "warning: checkpoint step-00000018 is damaged (state.pt does not have the bytes that were written); going on "
        "from step-00000016 before it"
    )
    assert metric_lines(run) == metric_lines(tiny_run)
    assert not list((run / "checkpoints").glob("damaged-*"))


def test_all_checkpoints_damaged(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "manifest.json").write_text("")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is whole .*--overwrite to start anew"):
        train(tiny_config(run), resume=True)
