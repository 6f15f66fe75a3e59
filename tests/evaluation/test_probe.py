"""Probes against scikit-learn."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation.few_shots import draw_shots, few_shot_probe
from mmcontrast.evaluation.logistic import fit_logistic
from mmcontrast.evaluation.metrics import macro_scores
from mmcontrast.evaluation.probe import (
    choose_strength,
    classification_metrics,
    held_out,
    linear_probe,
    nearest_neighbours,
)


def clusters(pictures: int, classes: int, *, spread: float = 1.0, seed: int = 0, d: int = 12) -> tuple[Tensor, Tensor]:
    """Features around one direction a class, with a common offset as real towers have; labels in a random order."""
    means = torch.randn(classes, d, generator=torch.Generator().manual_seed(99)) + 2
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (pictures,), generator=generator)
    labels[:classes] = torch.arange(classes)
    return means[labels] + spread * torch.randn(pictures, d, generator=generator), labels


@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
def test_the_optimum_is_that_of_scikit_learn(strength: float) -> None:
    features, labels = clusters(200, 6)
    features = normalize(features.double(), dim=-1)
    ours = fit_logistic(features, labels, 6, strength)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(features.numpy(), labels.numpy())
    np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, atol=2e-4 * np.abs(theirs.coef_).max())
    log_odds = ours.logits(features).log_softmax(dim=1)
    np.testing.assert_allclose(log_odds.exp().numpy(), theirs.predict_proba(features.numpy()), atol=1e-4)


def test_two_classes_are_those_of_twice_the_strength_in_scikit_learn() -> None:
    features, labels = clusters(100, 2)
    ours = fit_logistic(features, labels, 2, 0.5)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    difference = (ours.weight[1] - ours.weight[0]).numpy()
    np.testing.assert_allclose(difference, theirs.coef_[0], atol=1e-4 * np.abs(theirs.coef_).max())


def test_the_optimum_does_not_depend_on_where_the_search_begins() -> None:
    features, labels = clusters(150, 5)
    cold = fit_logistic(features, labels, 5, 10.0)
    warm = fit_logistic(features, labels, 5, 10.0, start=fit_logistic(features, labels, 5, 0.01))
    torch.testing.assert_close(warm.logits(features), cold.logits(features), atol=1e-3, rtol=1e-3)


def test_the_probe_scores_as_scikit_learn_does_with_the_strength_it_chose() -> None:
    train, train_labels = clusters(240, 7, spread=2.0)
    features, labels = clusters(300, 7, spread=2.0, seed=1)
    found = linear_probe(train, train_labels, features, labels, 7)
    assert found == linear_probe(train, train_labels, features, labels, 7)
    model = LogisticRegression(C=found["strength"], tol=1e-10, max_iter=10_000)
    model.fit(normalize(train.double(), dim=-1).numpy(), train_labels.numpy())
    predicted = model.predict(normalize(features.double(), dim=-1).numpy())
    macro = precision_recall_fscore_support(labels.numpy(), predicted, average="macro", zero_division=0)
    assert 0.3 < found["acc1"] < 0.95  # type: ignore[operator]
    assert found["acc1"] == pytest.approx((predicted == labels.numpy()).mean())
    assert found["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(labels.numpy(), predicted))
    for name, value in zip(("macro_precision", "macro_recall", "macro_f1"), macro[:3], strict=True):
        assert found[name] == pytest.approx(value)


def test_the_strength_is_the_best_on_the_held_out_part() -> None:
    features, labels = clusters(150, 4, spread=3.0)
    held = held_out(labels, 0.2, 5)
    shares = {}
    for strength in (0.01, 1.0, 100.0):
        model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
        model.fit(features[~held].double().numpy(), labels[~held].numpy())
        shares[strength] = model.score(features[held].double().numpy(), labels[held].numpy())
    best = min(strength for strength, share in shares.items() if share == max(shares.values()))
    assert choose_strength(features, labels, 4, [100.0, 0.01, 1.0], 5) == best


def test_the_held_out_part_leaves_every_class_a_picture() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2])
    held = held_out(labels, 0.2, 0)
    assert [int(held[labels == c].sum()) for c in range(3)] == [2, 1, 0]
    assert torch.equal(held, held_out(labels, 0.2, 0))
    assert any(not torch.equal(held, held_out(labels, 0.2, seed)) for seed in range(1, 9))


@pytest.mark.parametrize("k", [1, 4, 30])
def test_neighbours_vote_as_in_scikit_learn(k: int) -> None:
    train, train_labels = clusters(90, 5, spread=2.0)
    features, labels = clusters(80, 5, spread=2.0, seed=1)
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    model.fit(train.double().numpy(), train_labels.numpy())
    found = nearest_neighbours(train, train_labels, features, labels, 5, ks=[k])
    assert found == {f"acc1@{k}": pytest.approx(model.score(features.double().numpy(), labels.numpy()))}


def test_few_shots_are_probes_on_what_was_drawn() -> None:
    train, train_labels = clusters(60, 3, spread=2.0)
    features, labels = clusters(90, 3, spread=2.0, seed=1)
    found = few_shot_probe(train, train_labels, features, labels, 3, shots=[2], draws=3, seed=4)
    units, test = (normalize(part.double(), dim=-1).numpy() for part in (train, features))
    shares = []
    for draw in range(3):
        drawn = draw_shots(train_labels, 2, 12 + draw)
        assert train_labels[drawn].bincount().tolist() == [2, 2, 2]
        model = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(units[drawn], train_labels[drawn].numpy())
        shares.append(model.score(test, labels.numpy()))
    assert found["acc1@2_shots"] == pytest.approx(statistics.mean(shares))
    assert found["acc1_sd@2_shots"] == pytest.approx(statistics.stdev(shares))
    assert len(set(shares)) > 1


def test_few_shots_of_small_classes() -> None:
    train, train_labels = torch.eye(4), torch.tensor([0, 0, 0, 1])
    found = few_shot_probe(train, train_labels, train, train_labels, 2, shots=[2, 4], draws=1)
    assert found == {
        "acc1@2_shots": found["acc1@2_shots"],
        "acc1_sd@2_shots": None,
        "acc1@4_shots": None,
        "acc1_sd@4_shots": None,
    }
    assert draw_shots(train_labels, 2, 0).tolist()[-1] == 3
    json.dumps(found, allow_nan=False)


def test_macro_scores_of_classes_that_nobody_has() -> None:
    confusion = torch.tensor([[2, 1, 0], [0, 0, 0], [0, 0, 0]])  # class 1 is only predicted, class 2 is nowhere
    true, predicted = [0, 0, 0], [0, 0, 1]
    expected = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    assert list(macro_scores(confusion).values()) == pytest.approx(list(expected[:3]))


def test_under_five_classes_acc5_is_null() -> None:
    found = classification_metrics(torch.eye(4), torch.arange(4))
    assert found["acc5"] is None
    assert found["acc1"] == 1.0
    json.dumps(found, allow_nan=False)


GOOD = {"train_features": torch.eye(4), "train_labels": torch.tensor([0, 0, 1, 1]), "features": torch.eye(4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.tensor([0, 0, 1, 2])}, r"label 2 of train picture 3 is out of range: there are 2"),
        ({"labels": torch.tensor([0, -1, 1, 1])}, r"label -1 of picture 1 is out of range"),
        ({"train_labels": torch.tensor([0, 1])}, "2 labels for 4 train pictures"),
        ({"train_labels": torch.zeros(4, dtype=torch.int64)}, "pictures of fewer than two classes"),
        ({"features": torch.eye(4)[:, :3]}, "train features have 4 dimensions, the others 3: take both from one model"),
        ({"features": torch.empty(0, 4)}, "no image features"),
    ],
)
def test_wrong_arguments(change: dict[str, Tensor], message: str) -> None:
    arguments = {**GOOD, "labels": torch.tensor([0, 0, 1, 1]), **change}
    for probe in (linear_probe, nearest_neighbours, few_shot_probe):
        with pytest.raises(DataError, match=message):
            probe(*arguments.values(), 2)


def test_features_that_are_not_finite() -> None:
    with pytest.raises(ModelError, match="train image features are not finite"):
        linear_probe(torch.full((4, 4), torch.nan), GOOD["train_labels"], torch.eye(4), GOOD["train_labels"], 2)


def test_more_neighbours_than_train_pictures() -> None:
    arguments = (*GOOD.values(), GOOD["train_labels"], 2)
    with pytest.raises(DataError, match=r"acc1@5: k must be between 1 and the number of train pictures, 4"):
        nearest_neighbours(*arguments, ks=[1, 5])
    assert nearest_neighbours(*arguments, ks=[1, 5], strict=False) == {"acc1@1": 1.0, "acc1@5": None}
