"""When checkpoints are due by the clock, and that nobody can set that clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from test_trainer import make_trainer

from mmcontrast.training.asking import RankQuestions


def test_minutes_since_the_last_checkpoint() -> None:
    now = [0.0]
    questions = RankQuestions(torch.device("cpu"), 1.5, clock=lambda: now[0])
    assert questions.ask(1, stop=False) == (False, False)
    now[0] = 89.0
    assert questions.ask(2, stop=True) == (True, False)
    now[0] = 90.0
    assert questions.ask(3, stop=False) == (False, True)
    questions.saved()
    assert questions.ask(4, stop=False) == (False, False)
    now[0] = 180.0
    assert questions.ask(5, stop=False) == (False, True)


def test_a_jump_of_the_time_of_day_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 4e9)
    make_trainer(tmp_path, steps=4, checkpoint_every=100, checkpoint_minutes=60).fit()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_run_saves_by_the_clock(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=6, checkpoint_every=100, checkpoint_minutes=1)
    now = iter(range(0, 10_000, 25))
    trainer.questions.clock = lambda: float(next(now))
    trainer.questions.saved()  # at 0 s; then 25 s go by each time somebody looks
    trainer.fit()
    steps = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert steps == ["step-00000003", "step-00000006"]
