from __future__ import annotations

import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

from mmcontrast.errors import DataError
from mmcontrast.evaluation.reliability import area_under_roc, reliability


def sample(n: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(n, generator=generator) ** 3
    return p, torch.rand(n, generator=generator) < p


def test_right_probabilities_lie_on_the_diagonal() -> None:
    p, truth = sample(200_000)
    found = reliability(p, truth)
    assert sum(found.counts) == len(p)
    assert found.believed == pytest.approx(found.observed, abs=0.02)
    assert found.ece < 0.005
    assert found.mean == pytest.approx(found.base_rate, abs=0.005)


def test_numbers_are_those_of_scikit_learn() -> None:
    p, truth = sample()
    p = (p * 20).round() / 20  # with ties
    found = reliability(p, truth)
    assert found.brier == pytest.approx(brier_score_loss(truth, p))
    assert found.auroc == pytest.approx(roc_auc_score(truth, p))
    base = truth.double().mean()
    assert found.brier_constant == pytest.approx(brier_score_loss(truth, base.expand(len(p))))


def test_wrong_probabilities_are_found_out_though_their_order_is_right() -> None:
    p, truth = sample()
    honest, timid = reliability(p, truth), reliability(p / 10, truth)
    assert timid.auroc == honest.auroc
    assert timid.ece > 5 * honest.ece
    assert timid.brier > honest.brier


def test_calibration_error_by_hand() -> None:
    p = torch.tensor([0.05, 0.05, 0.95, 1.0])
    found = reliability(p, torch.tensor([False, True, True, True]))
    assert found.counts == [2, 2]
    assert found.observed == [0.5, 1.0]
    assert found.ece == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_nothing_to_compare() -> None:
    assert area_under_roc(torch.rand(3), torch.ones(3, dtype=torch.bool)) is None
    with pytest.raises(DataError, match="reliability"):
        reliability(torch.rand(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(DataError, match="reliability"):
        reliability(torch.rand(0), torch.ones(0, dtype=torch.bool))
