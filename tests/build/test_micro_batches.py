"""Runs with `training.micro_batch_size`: the same training in less memory, that repeats and goes on like any other."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_distributed_run import GUIDED, OVERRIDES, torchrun
from tiny_runs import CommandLines, assert_same_run, last_weights, metric_lines, tiny_config, train

from mmcontrast import build
from mmcontrast.config import dump_config
from mmcontrast.errors import TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")
MICRO = "training.micro_batch_size=6"  # of 20 pairs: chunks of 5


def assert_nearly_same(one: Path, other: Path, lines: int) -> None:
    """Two runs that differ in the order of sums only."""
    ours, theirs = ([line for line in metric_lines(run) if "loss" in line] for run in (one, other))
    assert len(ours) == len(theirs) == lines
    for mine, other_line in zip(ours, theirs, strict=True):
        assert mine.keys() == other_line.keys()
        assert mine["loss"] == pytest.approx(other_line["loss"], abs=1e-5)
    weights = last_weights(other)
    for name, value in last_weights(one).items():
        torch.testing.assert_close(value, weights[name], atol=1e-4, rtol=0, msg=name)


def test_guided_calibrated_batches_in_chunks_train_what_whole_ones_train(tmp_path: Path) -> None:
    """Weights of negatives, the calibrator with its reserved captions, and clusters see the whole batch's features."""
    whole = train(tiny_config(tmp_path / "whole", *GUIDED)).run_dir
    chunks = train(tiny_config(tmp_path / "chunks", *GUIDED, MICRO)).run_dir
    assert_nearly_same(chunks, whole, 24)
    lines = metric_lines(chunks)
    assert any(line.get("effective_negatives", 19) < 18.9 for line in lines)  # the rules were at work
    assert any("cluster_inertia" in line for line in lines)


def test_two_processes_in_chunks_train_what_one_trains_in_whole(tmp_path: Path) -> None:
    run = tmp_path / "two" / "run"
    run.parent.mkdir()
    # of 10 pairs a process: chunks of 4, 3 and 3
    finished = torchrun(tiny_config(run, *OVERRIDES, "training.micro_batch_size=4"))
    assert finished.returncode == 0, finished.stderr
    assert_nearly_same(run, train(tiny_config(tmp_path / "one", *OVERRIDES)).run_dir, 3)


def test_one_chunk_is_the_plain_run_bit_for_bit(tiny_run: Path, tmp_path: Path) -> None:
    assert_same_run(tiny_run, train(tiny_config(tmp_path / "run", "training.micro_batch_size=20")).run_dir)


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, mmcontrast_command: CommandLines) -> None:
    whole = train(tiny_config(tmp_path / "whole", MICRO)).run_dir
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config(tmp_path / "run", MICRO)))
    assert mmcontrast_command("train", tmp_path / "tiny.yaml", die=(10, signal.SIGKILL)).code == -9
    resumed = mmcontrast_command("train", tmp_path / "tiny.yaml", "--resume")
    assert resumed.code == 0, resumed.stderr
    assert_same_run(whole, tmp_path / "run")


def test_batch_norm_is_warned_of_once(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=500)
    build.train(tiny_config(tmp_path / "run", MICRO, "training.max_steps=2"), console=console)
    assert isinstance(console.file, io.StringIO)
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("warning:")]
    assert "layers of BatchNorm2d take their statistics from 6 pairs at a time instead of 20" in line


def test_pairs_one_by_one_leave_batch_norm_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"micro_batch_size: 1 leaves .* BatchNorm2d a chunk of one pair.*or null"):
        train(tiny_config(tmp_path / "run", "training.micro_batch_size=1"))
