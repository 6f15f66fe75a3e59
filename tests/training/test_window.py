"""Means since the last logged step, also when a run stops in the middle of them."""

from __future__ import annotations

import math

import pytest
import torch

from mmcontrast.training.window import StepWindow

GOOD, BAD = torch.tensor(True), torch.tensor(False)


def test_means_survive_a_checkpoint() -> None:
    window = StepWindow()
    window.add({"loss": torch.tensor(1.0)}, GOOD)
    window.add({"loss": torch.tensor(2.0)}, GOOD)
    resumed = StepWindow()
    resumed.load_state_dict([window.state_dict()], torch.device("cpu"))
    resumed.add({"loss": torch.tensor(6.0)}, GOOD)
    means, seconds = resumed.flush()
    assert means == {"loss": 3.0}
    assert seconds >= 0


def test_evaluation_is_no_training_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0])
    monkeypatch.setattr("mmcontrast.training.window.time.perf_counter", lambda: next(clock))
    window = StepWindow()
    window.add({"loss": torch.tensor(1.0)}, GOOD)
    window.add({"loss": torch.tensor(1.0)}, GOOD)
    window.exclude(4.0)
    assert window.flush()[1] == 3.0


def test_a_value_that_begins_late_is_not_thinned() -> None:
    """A rule that starts in the middle of a window: the steps before have no value, which is not 0."""
    window = StepWindow()
    window.add({"loss": torch.tensor(1.0)}, GOOD)
    window.add({"loss": torch.tensor(3.0), "effective_negatives": torch.tensor(100.0)}, GOOD)
    resumed = StepWindow()
    resumed.load_state_dict([window.state_dict()], torch.device("cpu"))
    resumed.add({"loss": torch.tensor(2.0), "effective_negatives": torch.tensor(80.0)}, GOOD)
    assert resumed.flush()[0] == {"loss": 2.0, "effective_negatives": 90.0}
    resumed.add({"loss": torch.tensor(5.0)}, GOOD)
    assert resumed.flush()[0] == {"loss": 5.0}


def test_skipped_steps_count_in_no_mean() -> None:
    window = StepWindow()
    window.add({"loss": torch.tensor(1.0)}, GOOD)
    window.add({"loss": torch.tensor(float("nan"))}, BAD)
    window.add({"loss": torch.tensor(3.0), "norm": torch.tensor(float("inf"))}, BAD)
    means, _ = window.flush()
    assert means["loss"] == 1.0
    assert math.isnan(means["norm"])


def test_windows_of_several_processes_become_one() -> None:
    states = []
    for value in (1.0, 4.0):
        window = StepWindow()
        window.add({"loss": torch.tensor(value)}, GOOD)
        states.append(window.state_dict())
    resumed = StepWindow()
    resumed.load_state_dict(states, torch.device("cpu"))
    resumed.add({"loss": torch.tensor(0.5)}, GOOD)
    assert resumed.flush()[0] == {"loss": 1.5}
