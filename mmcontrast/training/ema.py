"""Exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmcontrast.training.sharding import shares


class WeightAverage:
    """Keeps `model`, a copy whose weights and buffers follow the trained ones.

    The decay grows from 0 as (1 + t) / (10 + t), so that the first steps do not keep the random start alive.
    """

    def __init__(self, trained: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.model = copy.deepcopy(trained).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, trained: nn.Module) -> None:
        """One step: average <- decay * average + (1 - decay) * trained; integer buffers are copied."""
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        ours, theirs = shares(self.model), shares(trained)
        floats = [name for name in ours if ours[name].is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], weight)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])
