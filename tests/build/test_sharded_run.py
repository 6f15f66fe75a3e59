"""Runs whose weights are split over the processes (FSDP2): they train what unsharded ones do, and save the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rank_runs import run_with
from tiny_runs import last_weights, metric_lines, tiny_config

from mmcontrast.config import Config
from mmcontrast.errors import ConfigError
from mmcontrast.models import DualEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

# No batch norm, whose statistics are those of a process's share, and no dropout, which differs between ranks.
OVERRIDES = (
    "model.image={library: open_clip, image_size: 32, kwargs: {width: 32, layers: 2, head_width: 16, patch_size: 8}}",
    "model.text={kwargs: {width: 32, heads: 2, layers: 3}, dropout: 0}",
    "training.epochs=2",
    "training.log_every_steps=1",
    "training.checkpoint_every_steps=4",
    "training.ema_decay=0.9",
    "training.gradient_clip_norm=0.5",
    "negatives.rule=[duplicates, calibrated]",
    "negatives.start=0.3",
    "evaluation.inspect_negatives=0",
)
STEPS = 12


def config_of(folder: Path, *overrides: str) -> Config:
    return tiny_config(folder, *OVERRIDES, *overrides)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run_with(1, folder, config_of(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    run_with(2, folder, config_of(folder / "run", "training.sharding=fsdp"))
    return folder / "run"


def assert_trained_alike(run: Path, other: Path) -> None:
    ours, theirs = metric_lines(run), metric_lines(other)
    assert [line["global_step"] for line in ours] == [line["global_step"] for line in theirs]
    assert sum("loss" in line for line in ours) == STEPS
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.keys() == its.keys()
        assert mine.get("loss") == pytest.approx(its.get("loss"), abs=2e-6)
        assert mine.get("grad_norm", 0) == pytest.approx(its.get("grad_norm", 0), rel=2e-4)
    expected = last_weights(other)
    for name, value in last_weights(run).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=0)


def test_two_processes_with_a_share_each_train_what_one_trains(one: Path, sharded: Path) -> None:
    assert_trained_alike(sharded, one)


def test_the_saved_model_is_whole(one: Path, sharded: Path) -> None:
    ours, theirs = (DualEncoder.from_pretrained(run / "model").state_dict() for run in (sharded, one))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=0)


def test_four_processes_in_micro_batches(one: Path, tmp_path: Path) -> None:
    run_with(4, tmp_path, config_of(tmp_path / "run", "training.sharding=fsdp", "training.micro_batch_size=2"))
    assert_trained_alike(tmp_path / "run", one)


@pytest.mark.parametrize(("ranks", "sharding"), [(2, "fsdp"), (2, "none"), (1, "none")])
def test_a_run_goes_on_with_and_without_shards(sharded: Path, tmp_path: Path, ranks: int, sharding: str) -> None:
    shutil.copytree(sharded, tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        if checkpoint.name > "step-00000008":
            shutil.rmtree(checkpoint)
    run_with(ranks, tmp_path, config_of(tmp_path / "run", f"training.sharding={sharding}"), resume=True)
    assert_trained_alike(tmp_path / "run", sharded)
    if (ranks, sharding) == (2, "fsdp"):
        assert metric_lines(tmp_path / "run") == metric_lines(sharded)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.compile=true", "training.compile: does not go with training.sharding"),
        ("training.precision=fp16", "training.precision: fp16 does not go with training.sharding"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, "training.sharding=fsdp", override)
