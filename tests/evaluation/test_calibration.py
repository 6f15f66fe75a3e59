"""Calibration against loops, and a temperature against a search over a grid."""

from __future__ import annotations

import json
import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation.calibration import calibration, calibration_metrics, fit_temperature


def stated(pictures: int, classes: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(pictures, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator).squeeze(1)


def test_metrics_by_loops() -> None:
    logits, labels = stated(50, 4, temperature=3.0)
    bins: dict[int, list[tuple[float, bool]]] = {}
    brier = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = sum(map(math.exp, row))
        p = [math.exp(value) / total for value in row]
        best = max(range(4), key=p.__getitem__)
        bins.setdefault(int(p[best] * 15), []).append((p[best], best == label))
        brier += sum((p[c] - (c == label)) ** 2 for c in range(4)) / 50
    ece = sum(abs(sum(p for p, _ in held) - sum(right for _, right in held)) for held in bins.values()) / 50
    found = calibration_metrics(logits, labels)
    assert found == {
        "ece": pytest.approx(ece),
        "brier": pytest.approx(brier),
        "nll": pytest.approx(log_loss(labels.numpy(), logits.softmax(dim=1).numpy(), labels=range(4))),
    }
    assert found["ece"] > 0.1  # type: ignore[operator]


def test_the_temperature_is_the_best_of_a_grid() -> None:
    logits, labels = stated(300, 5, temperature=2.5)

    def nll(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

    grid = [0.5 * 1.01**step for step in range(400)]
    assert fit_temperature(logits, labels) == pytest.approx(min(grid, key=nll), rel=0.01)


def test_the_temperature_that_was_drawn_with_is_found_and_helps_on_the_other_half() -> None:
    logits, labels = stated(8000, 5, temperature=2.5)
    found = calibration(logits, labels)
    assert found["temperature"] == pytest.approx(2.5, rel=0.1)
    assert found["ece_calibrated"] < 0.03 < 0.1 < found["ece"]  # type: ignore[operator]
    assert found["brier_calibrated"] < found["brier"]  # type: ignore[operator]
    assert found == calibration(logits, labels)
    assert found != calibration(logits, labels, seed=1)


def test_halves_do_not_overlap() -> None:
    logits, labels = stated(40, 3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    fitted, measured = order[:20], order[20:]
    temperature = fit_temperature(logits[fitted], labels[fitted])
    found = calibration(logits, labels)
    assert found["temperature"] == temperature
    assert found["nll_calibrated"] == calibration_metrics(logits[measured] / temperature, labels[measured])["nll"]


def test_extremes_stay_finite() -> None:
    labels = torch.arange(4).repeat(3)
    right = 50 * torch.nn.functional.one_hot(labels, 4).double()
    for logits in (right, -right, torch.zeros(12, 4)):
        json.dumps(calibration(logits, labels), allow_nan=False)
    assert fit_temperature(right, labels) == pytest.approx(1e-4)
    assert fit_temperature(-right, labels) == pytest.approx(1e4)


def test_mistakes() -> None:
    with pytest.raises(DataError, match="label 3 of picture 1 is out of range"):
        calibration(torch.zeros(2, 3), torch.tensor([0, 3]))
    with pytest.raises(DataError, match="calibration of 3 pictures and 1 classes: take at least two of each"):
        calibration(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
