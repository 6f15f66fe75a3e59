"""Decay only where it belongs, and the schedule's corner points."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcontrast.training.optim import adamw, lr_factor, parameter_groups, scheduler


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.positional_embedding = nn.Parameter(torch.ones(4, 2))
        self.locked = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_only_matrices_decay_and_locked_parameters_are_left_out() -> None:
    model = Model()
    decayed, kept = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]  # type: ignore[attr-defined]
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 5  # type: ignore[arg-type]


def test_warmup_then_cosine() -> None:
    factors = [lr_factor(s, warmup_steps=4, total_steps=12, schedule="cosine") for s in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    assert lr_factor(9, warmup_steps=0, total_steps=10, schedule="constant") == 1.0


def test_scheduler_drives_the_optimizer() -> None:
    optimizer = adamw(Model(), learning_rate=0.2, weight_decay=0.1, betas=(0.9, 0.98))
    steps = scheduler(optimizer, warmup_steps=2, total_steps=4, schedule="cosine")
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert rates == pytest.approx([0.1, 0.2, 0.2, 0.1])
