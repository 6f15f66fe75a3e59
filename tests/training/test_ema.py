"""The moving average follows weights and buffers."""

from __future__ import annotations

import torch
from torch import nn

from mmcontrast.training.ema import WeightAverage


def test_average_is_the_literal_recursion() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.9)
    expected = model[0].weight.detach().clone()
    for step in range(100):
        with torch.no_grad():
            model[0].weight += 0.1
        model(torch.randn(4, 2))
        average.update(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected)
    assert average.model[1].num_batches_tracked == 100
    assert not average.model.training
    assert not average.model[0].weight.requires_grad
