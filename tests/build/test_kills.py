"""A run that is killed at any point, as often as one likes, ends as if nothing had been: bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import MOST, config_of, kill_and_resume
from tiny_runs import metric_lines, train

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Two states, tensor by tensor and bit by bit."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for place, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}[{place}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def assert_same_to_the_last_bit(one: Path, other: Path) -> None:
    """Log, every state of every kept checkpoint (optimiser, clusters, calibrator, order, random states), best model."""
    assert metric_lines(one) == metric_lines(other)
    for checkpoint in (one / "checkpoints").iterdir():
        for name in ("state.pt", "rank-0.pt"):
            ours, theirs = (
                torch.load(run / "checkpoints" / checkpoint.name / name, weights_only=True) for run in (one, other)
            )
            assert_equal(ours, theirs, f"{checkpoint.name}/{name}")
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    assert json.loads((one / "results.json").read_text()) == json.loads((other / "results.json").read_text())
    names, others = ({path.name for path in run.rglob("*")} for run in (one, other))
    assert names - {"report.html"} == others  # nothing left over, either


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The run that nobody disturbs."""
    return train(config_of(tmp_path_factory.mktemp("whole") / "run")).run_dir


@pytest.mark.timeout(600)
def test_fifty_kills_change_nothing(whole: Path, tmp_path: Path) -> None:
    state = torch.load(max((whole / "checkpoints").iterdir()) / "state.pt", weights_only=True)
    assert state["objective"]["clusters"]["centroids"] is not None
    assert state["objective"]["weighting"]["calibrator"]["numbers"][4] > 0  # it has learnt
    count = kill_and_resume(tmp_path, 50, 0, lambda run: assert_same_to_the_last_bit(whole, run))
    assert count.total >= 50
    assert count.finished >= 2
    assert all(count.kills[kind] > 0 for kind in MOST), count.kills
