from __future__ import annotations

import pytest
import torch
from evaluation_fakes import FakeEncoder, FakeSource
from sklearn.metrics import average_precision_score

from mmcontrast.errors import DataError
from mmcontrast.evaluation.multi_label import average_precisions, multi_label_metrics
from mmcontrast.evaluation.tasks import run_tasks


def test_it_is_scikit_learn_s() -> None:
    generator = torch.Generator().manual_seed(0)
    images, weights = torch.randn(60, 4, generator=generator), torch.randn(6, 4, generator=generator)
    truth = torch.rand(60, 6, generator=generator) < 0.3
    truth[:, 5] = False
    units = [torch.nn.functional.normalize(part.double(), dim=-1) for part in (images, weights)]
    scores = (units[0] @ units[1].T).numpy()
    expected = [average_precision_score(truth[:, c].numpy(), scores[:, c]) for c in range(5)]
    assert multi_label_metrics(images, weights, truth) == {"map": pytest.approx(sum(expected) / 5)}


def test_a_tie_is_decided_against_the_positives() -> None:
    scores = torch.tensor([[0.5], [0.5], [0.9], [0.1]])
    truth = torch.tensor([[True], [False], [True], [False]])
    assert average_precisions(scores, truth).tolist() == [pytest.approx((1 + 2 / 3) / 2)]
    assert average_precisions(scores, torch.zeros(4, 1, dtype=torch.bool)).isnan().all()


def test_captions_are_the_classes_as_a_task() -> None:
    texts = [["1", "2"], ["2"], ["1"], ["3"]]
    source = FakeSource(codes=[1, 2, 1, 3], texts=texts)
    found = run_tasks(FakeEncoder(), source, ["multi_label"], templates=["{c}"])
    assert found.spelled == {"1": "1", "2": "2", "3": "3"}
    weights = FakeEncoder().vectors.detach()
    truth = torch.tensor([[True, True, False], [False, True, False], [True, False, False], [False, False, True]])
    expected = multi_label_metrics(weights[[1, 2, 1, 3]], weights[[1, 2, 3]], truth)
    assert found.results["multi_label"] == expected
    assert expected["map"] < 1  # type: ignore[operator]
    more = run_tasks(FakeEncoder(), source, ["multi_label"], templates=["{c}"], classnames=["3", "2", "1", "9"])
    assert more.results["multi_label"]["map"] == pytest.approx(expected["map"])
    assert more.notes == ["multi_label: 1 classes have no pictures and count in no mean: 9"]


def test_mistakes() -> None:
    source = FakeSource(codes=[1, 2], texts=[["1"], ["cat"]])
    with pytest.raises(DataError, match="row 1: 'cat' is none of the 2 class names"):
        run_tasks(FakeEncoder(), source, ["multi_label"], classnames=["1", "2"])
    with pytest.raises(DataError, match="multi_label needs captions"):
        run_tasks(FakeEncoder(), FakeSource(codes=[1]), ["multi_label"])
    with pytest.raises(DataError, match=r"\(2, 2\) labels do not fit 2 pictures and 3 classes"):
        multi_label_metrics(torch.ones(2, 4), torch.ones(3, 4), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(DataError, match="no class has a picture"):
        multi_label_metrics(torch.ones(2, 4), torch.ones(3, 4), torch.zeros(2, 3, dtype=torch.bool))
