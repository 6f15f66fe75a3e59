"""The objective: plain InfoNCE bit for bit where no rule has a say, and gradients that stay where they belong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "negatives"))
from making_batches import VOCABULARY, WIDTH, random_batch

from mmcontrast.losses import sigmoid_loss, symmetric_info_nce
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.known import MatchKeys, known_positives, mask_log_weights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.signals import SIGNALS
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.types import Features, PairBatch


def calibrating(*names: Any, **numbers: Any) -> Weighting:
    return Weighting(
        RuleSettings(rules=names, **numbers),
        calibrator=Calibrator(len(SIGNALS)),
        words=WordStatistics(VOCABULARY),
    )


def observed_clusters(items: int = 640) -> Clusters:
    clusters = Clusters(items, WIDTH, items_per_cluster=64, seed=0, device="cpu")
    features = torch.nn.functional.normalize(torch.randn(items, WIDTH, generator=torch.Generator().manual_seed(0)))
    clusters.observe(torch.arange(items), features, features)
    clusters.refresh()
    return clusters


def learn(objective: ContrastiveObjective, batches: int = 46) -> None:
    objective.progress = 0.0
    for number in range(batches):
        objective(*random_batch(32, seed=number, first_index=32 * number, siblings=8))


def gradients(loss: Tensor, features: Features) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [features.image, features.text, features.logit_scale]))


def plain(features: Features, log_weights: Tensor | None = None) -> Tensor:
    return symmetric_info_nce(features.image, features.text, features.logit_scale, log_weights=log_weights)


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(RuleSettings(rules=())),
        calibrating("calibrated", start=0.5),
        Weighting(RuleSettings(rules=(), correction=0.0), clusters=observed_clusters()),
        Weighting(RuleSettings(rules=("margin", "quantile"), quantile=0.2, start=0.5)),
    ],
    ids=["none", "calibrated before its start", "correction 0", "margin and quantile before their start"],
)
def test_it_is_info_nce_bit_for_bit(weighting: Weighting) -> None:
    """Risk "does not reduce to InfoNCE"."""
    objective = ContrastiveObjective(weighting=weighting, clusters=weighting.clusters)
    if weighting.calibrator is not None:
        learn(objective)
        assert weighting.calibrator.ready
    objective.progress = 0.4
    features, batch, sibling_text = random_batch(32, seed=77, siblings=8)
    loss, expected = objective(features, batch, sibling_text).loss, plain(features)
    assert torch.equal(loss, expected)
    assert all(
        torch.equal(*pair) for pair in zip(gradients(loss, features), gradients(expected, features), strict=True)
    )


def test_once_it_begins_it_is_not_info_nce() -> None:
    objective = ContrastiveObjective(weighting=calibrating("calibrated", start=0.5))
    learn(objective)
    objective.progress = 0.9
    features, batch, sibling_text = random_batch(32, seed=77, siblings=8)
    output = objective(features, batch, sibling_text)
    assert not torch.equal(output.loss, plain(features))
    assert {"calibrator_loss", "false_negative_share", "effective_negatives"} <= output.diagnostics.keys()


def test_the_default_masks_duplicates_as_ever() -> None:
    features, batch, _ = random_batch(12)
    keys = MatchKeys.of(batch)
    loss = ContrastiveObjective()(features, batch).loss
    expected = plain(features, mask_log_weights(known_positives(keys, keys)))
    assert torch.equal(loss, expected)
    assert all(
        torch.equal(*pair) for pair in zip(gradients(loss, features), gradients(expected, features), strict=True)
    )
    assert not torch.equal(loss, plain(features))


@pytest.mark.parametrize("known", ["mask", "positives"])
def test_the_sigmoid_loss_takes_the_same_weights(known: Any) -> None:
    features, batch, _ = random_batch(12)
    features = Features(features.image, features.text, features.logit_scale, torch.tensor(-5.0))
    keys = MatchKeys.of(batch)
    matches = known_positives(keys, keys)
    weighting = Weighting(RuleSettings(known_positives=known))
    loss = ContrastiveObjective("sigmoid", weighting)(features, batch).loss
    options: dict[str, Any] = {"log_weights": mask_log_weights(matches)} if known == "mask" else {"positives": matches}
    expected = sigmoid_loss(features.image, features.text, features.logit_scale, -5.0, **options)
    assert torch.equal(loss, expected)


def test_no_gradient_between_the_calibrator_and_the_encoders() -> None:
    """Risk "wrong gradients": none into phi from L, none into the encoders from phi's loss."""
    weighting = calibrating("duplicates", "calibrated", "hardness", soft_positives=0.6)
    objective = ContrastiveObjective(weighting=weighting)
    learn(objective)
    assert weighting.calibrator is not None
    network = weighting.calibrator.network
    before = [p.detach().clone() for p in network.parameters()]
    objective.progress = 1.0
    features, batch, sibling_text = random_batch(32, seed=77, siblings=8)
    assert sibling_text is not None
    sibling_text.requires_grad_()
    output = objective(features, batch, sibling_text)
    # The calibrator has made its own step, of which the encoders know nothing ...
    assert any(not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert features.image.grad is features.text.grad is features.logit_scale.grad is sibling_text.grad is None
    assert not any(value.requires_grad for value in output.diagnostics.values())
    # ... and the loss does not depend on its weights.
    for parameter in network.parameters():
        parameter.grad = None
    torch.autograd.backward(output.loss)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert sibling_text.grad is None
    assert features.image.grad is not None
    assert float(features.image.grad.abs().sum()) > 0


def test_the_weights_are_constants_of_the_loss() -> None:
    """Gradients with all rules equal those with the log-weights frozen: b is stop_grad."""
    weighting = calibrating("duplicates", "calibrated", "text_similarity", "hardness")
    objective = ContrastiveObjective(weighting=weighting)
    learn(objective)
    objective.progress = 1.0
    seen: list[Any] = []

    class Recording(Weighting):
        def __call__(self, *args: Any) -> Any:
            weights, _ = super().__call__(*args)
            seen.append(weights.dense())
            return weights, {}

    weighting.__class__ = Recording
    features, batch, sibling_text = random_batch(32, seed=78, siblings=8)
    loss = objective(features, batch, sibling_text).loss
    frozen = symmetric_info_nce(
        features.image,
        features.text,
        features.logit_scale,
        log_weights=seen[0].log_weights,
        text_log_weights=seen[0].text_log_weights,
    )
    assert torch.equal(loss, frozen)
    assert all(torch.equal(*pair) for pair in zip(gradients(loss, features), gradients(frozen, features), strict=True))


def test_clusters_see_every_batch_even_without_a_rule() -> None:
    clusters = Clusters(64, WIDTH, items_per_cluster=8, seed=0, device="cpu")
    objective = ContrastiveObjective(weighting=Weighting(RuleSettings(rules=()), clusters=clusters), clusters=clusters)
    features, batch, _ = random_batch(32)
    objective(features, batch)
    assert clusters.coverage() == 0.5
    image, text, seen = clusters.stored(batch.index)
    assert seen.all()
    torch.testing.assert_close(image, features.image.detach(), atol=1e-3, rtol=0)
    torch.testing.assert_close(text, features.text.detach(), atol=1e-3, rtol=0)


def test_siblings_are_wanted_by_calibrators_only() -> None:
    assert ContrastiveObjective(weighting=calibrating("quantile")).wants_siblings
    assert not ContrastiveObjective().wants_siblings
    linked = Weighting(RuleSettings(), calibrator=new_calibrator(True), words=WordStatistics(VOCABULARY))
    assert not ContrastiveObjective(weighting=linked).wants_siblings  # pairs of two pictures are evidence enough


def test_a_resumed_objective_goes_on_as_before() -> None:
    def fresh() -> ContrastiveObjective:
        clusters = Clusters(640, WIDTH, items_per_cluster=64, seed=0, device="cpu")
        weighting = calibrating("duplicates", "calibrated", correction=0.5)
        weighting.clusters = clusters
        return ContrastiveObjective(weighting=weighting, clusters=clusters)

    def step(objective: ContrastiveObjective, number: int) -> Tensor:
        objective.progress = number / 50
        return objective(*random_batch(32, seed=number, first_index=32 * (number % 20), siblings=8)).loss.detach()

    whole, first, second = fresh(), fresh(), fresh()
    losses = []
    for number in range(50):
        if number == 25:
            assert whole.clusters is not None
            whole.clusters.refresh()
        losses.append(step(whole, number))
    for number in range(30):
        if number == 25:
            assert first.clusters is not None
            first.clusters.refresh()
        step(first, number)
    second.load_state_dict(first.state_dict())
    assert [bool(torch.equal(step(second, n), losses[n])) for n in range(30, 50)] == [True] * 20


def test_a_batch_of_one_kind_only_breaks_nothing() -> None:
    """Every pair is known to match: nothing to tell apart, and still finite."""
    features, batch, _ = random_batch(8)
    same = PairBatch(**{**vars(batch), "group_key": torch.full((8,), 4)})
    output = ContrastiveObjective(weighting=calibrating("duplicates", "calibrated", "hardness"))(features, same)
    assert float(output.loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert all(torch.isfinite(g).all() for g in gradients(output.loss, features))


@pytest.mark.parametrize(
    ("loss_name", "weighting"),
    [
        ("info_nce", lambda: Weighting(RuleSettings(rules=()))),
        ("sigmoid", lambda: Weighting(RuleSettings(rules=()))),
        ("info_nce", lambda: Weighting(RuleSettings())),
        ("sigmoid", lambda: Weighting(RuleSettings())),
        ("info_nce", lambda: calibrating("duplicates", "calibrated", "hardness", known_positives="positives")),
        ("sigmoid", lambda: calibrating("duplicates", "calibrated", "hardness", known_positives="positives")),
        ("info_nce", lambda: calibrating("calibrated", "text_similarity", soft_positives=0.3)),
    ],
)
def test_a_large_batch_is_the_same_in_tiles(loss_name: Any, weighting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for tiled in (False, True):
        monkeypatch.setattr("mmcontrast.training.objective.TILED_FROM", 1 if tiled else 1000)
        monkeypatch.setattr("mmcontrast.losses.tiles.TILE", {"cpu": 10})
        objective = ContrastiveObjective(loss_name, weighting())
        features, batch, sibling_text = random_batch(32, seed=78, siblings=8)
        bias = torch.tensor(-5.0, requires_grad=True)
        if objective.weighting.calibrator is not None:
            monkeypatch.setattr("mmcontrast.training.objective.TILED_FROM", 1000)  # both learn from the same
            learn(ContrastiveObjective(weighting=objective.weighting))
            monkeypatch.setattr("mmcontrast.training.objective.TILED_FROM", 1 if tiled else 1000)
        objective.progress = 1.0
        features = Features(features.image, features.text, features.logit_scale, bias)
        output = objective(features, batch, sibling_text)
        found = torch.autograd.grad(output.loss, [features.image, features.text, features.logit_scale, bias])
        outcomes.append([output.loss, *found])
    for whole, parts in zip(*outcomes, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
