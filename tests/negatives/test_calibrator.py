"""The calibrator on simulations whose truth is known: calibrated, not merely ranking; and what would break it."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from mmcontrast.losses import symmetric_info_nce
from mmcontrast.negatives.calibrator import Calibrator, pu_brier, pu_ece, pu_risk
from mmcontrast.negatives.prior import estimate_prior

TRUE_PRIOR = 0.05
SHIFT = 3.0


def draw(count: int, generator: torch.Generator, share: float = TRUE_PRIOR) -> tuple[Tensor, Tensor]:
    """Signals (count, 2) of pairs as they come, and which of them match: one signal tells, the other is noise."""
    match = torch.rand(count, generator=generator) < share
    return torch.randn(count, 2, generator=generator) + match[:, None] * torch.tensor([SHIFT, 0.0]), match


def trained(prior: float | None = None, factor: float = 1.0, steps: int = 400, *, permuted: bool = False) -> Calibrator:
    generator = torch.Generator().manual_seed(1)
    calibrator = Calibrator(2, prior=prior, prior_factor=factor, seed=3)
    for _ in range(steps):
        for held_out, count in ((False, 400), (True, 80)):
            positives = draw(count // 10, generator, TRUE_PRIOR if permuted else 1.0)[0]
            calibrator.observe(positives, draw(count, generator)[0], held_out=held_out)
        calibrator.step()
    return calibrator


def bayes(signals: Tensor) -> Tensor:
    """The true probability of the simulation."""
    return torch.sigmoid(math.log(TRUE_PRIOR / (1 - TRUE_PRIOR)) + SHIFT * signals[:, 0] - SHIFT**2 / 2)


@pytest.fixture(scope="module")
def calibrator() -> Calibrator:
    return trained()


def test_prior_is_estimated(calibrator: Calibrator) -> None:
    assert calibrator.prior == pytest.approx(TRUE_PRIOR, rel=0.25)


def test_probabilities_are_those_of_the_truth(calibrator: Calibrator) -> None:
    """Risk "miscalibration": Brier against the constant, reliability, mean p of matches and of the others."""
    signals, match = draw(100_000, torch.Generator().manual_seed(9))
    p = calibrator.probability(signals)
    truth = match.float()
    brier, constant = float((p - truth).square().mean()), TRUE_PRIOR * (1 - TRUE_PRIOR)
    best = float((bayes(signals) - truth).square().mean())
    assert brier < 0.6 * constant
    assert brier < 1.1 * best
    assert roc_auc_score(match, p) > 0.97
    assert float(p[match].mean()) > 0.5
    assert float(p[~match].mean()) < 0.03
    bins = (p * 5).long().clamp(max=4)
    for b in range(5):
        assert float(p[bins == b].mean()) == pytest.approx(float(truth[bins == b].mean()), abs=0.2)


def test_scores_without_labels_agree_with_those_with_labels(calibrator: Calibrator) -> None:
    generator = torch.Generator().manual_seed(10)
    signals, match = draw(200_000, generator)
    positive = calibrator.probability(draw(20_000, generator, 1.0)[0])
    p = calibrator.probability(signals)
    assert pu_brier(positive, p, TRUE_PRIOR) == pytest.approx(float((p - match.float()).square().mean()), abs=1e-3)
    bins = (p * 10).long().clamp(max=9)
    literal = sum(
        abs(float(p[bins == b].sum()) - float(match[bins == b].sum())) / len(p) for b in range(10) if (bins == b).any()
    )
    assert pu_ece(positive, p, TRUE_PRIOR) == pytest.approx(literal, abs=3e-3)
    assert pu_ece(positive, p, TRUE_PRIOR) < 0.02


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_prior_shifts_probabilities_but_not_the_order(factor: float) -> None:
    signals, match = draw(50_000, torch.Generator().manual_seed(11))
    calibrator = trained(factor=factor)
    p = calibrator.probability(signals)
    assert roc_auc_score(match, p) > 0.96
    assert float((p - match.float()).square().mean()) < TRUE_PRIOR * (1 - TRUE_PRIOR)
    assert float(p.mean()) == pytest.approx(calibrator.prior, rel=0.1)
    assert float(p.quantile(0.999)) > 0.95  # what is certain stays so


def test_typical_is_the_probability_of_the_median_match(calibrator: Calibrator) -> None:
    matches, _ = draw(20_000, torch.Generator().manual_seed(13), 1.0)
    assert calibrator.typical == pytest.approx(float(calibrator.probability(matches).median()), abs=0.05)
    doubled = trained(factor=2.0)
    signals, _ = draw(50_000, torch.Generator().manual_seed(14))
    above = [float((c.probability(signals) > c.typical).float().mean()) for c in (calibrator, doubled)]
    assert above[1] == pytest.approx(above[0], rel=0.15)  # while p > .5 holds for more pairs:
    assert float((doubled.probability(signals) > 0.5).float().mean()) > 1.3 * float(
        (calibrator.probability(signals) > 0.5).float().mean()
    )


def test_permuted_positives_teach_nothing() -> None:
    """Risk "leakage through positives": "matches" drawn like any pair give an AUROC of .5."""
    signals, match = draw(20_000, torch.Generator().manual_seed(12))
    p = trained(prior=TRUE_PRIOR, permuted=True, steps=200).probability(signals)
    auroc = roc_auc_score(torch.rand(20_000, generator=torch.Generator().manual_seed(0)) < TRUE_PRIOR, p)
    assert auroc == pytest.approx(0.5, abs=0.05)
    assert float(p.mean()) == pytest.approx(TRUE_PRIOR, abs=0.02)  # it can only say the prior
    assert float(p[match].mean()) < 0.15


def test_joint_training_collapses() -> None:
    """Negative control: weights trained by the contrastive loss itself all fall to 0, and with them the loss."""
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(32, 8), dim=1) for _ in range(2))
    pairs = torch.stack([image @ text.T, text @ text.T], dim=-1)
    network = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    losses = []
    for _ in range(400):
        log_weights = F.logsigmoid(-network(pairs).squeeze(-1))  # log (1 - p)
        loss = symmetric_info_nce(image, text, 10.0, log_weights=log_weights)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 3
    assert losses[-1] < 0.01
    off = ~torch.eye(32, dtype=torch.bool)
    assert float(log_weights.detach()[off].mean()) < -5


def test_it_says_nothing_until_it_has_seen_enough() -> None:
    calibrator = Calibrator(2)
    calibrator.observe(torch.randn(10, 2), torch.randn(200, 2))
    assert calibrator.step() is None
    assert not calibrator.ready
    assert trained(steps=100).ready


def test_the_share_of_known_matches_caps_a_prior_that_scores_cannot_tell() -> None:
    """Risk "miscalibration": signals that say nothing bound the prior by nothing but 1."""
    generator = torch.Generator().manual_seed(6)
    calibrators = Calibrator(2), Calibrator(2)
    for _ in range(100):
        positives, unlabelled = torch.randn(40, 2, generator=generator), torch.randn(400, 2, generator=generator)
        for calibrator in calibrators:
            calibrator.observe(positives, unlabelled)
        calibrators[1].observe_known(0.01)
        for calibrator in calibrators:
            calibrator.step()
    free, capped = calibrators
    assert free.prior > 0.3
    assert capped.prior == pytest.approx(3 * 0.01 + 0.005)
    assert float(capped.probability(torch.randn(5000, 2, generator=generator)).mean()) == pytest.approx(0.035, abs=0.02)


def test_a_resumed_calibrator_equals_an_uninterrupted_one() -> None:
    generator = torch.Generator().manual_seed(5)
    data = [(draw(40, generator, 1.0)[0], draw(400, generator)[0]) for _ in range(60)]

    def train(calibrator: Calibrator, part: list[tuple[Tensor, Tensor]]) -> Calibrator:
        for positives, unlabelled in part:
            calibrator.observe(positives, unlabelled)
            calibrator.observe_known(len(positives) / 400)
            calibrator.step()
        return calibrator

    whole = train(Calibrator(2, seed=1), data)
    first = train(Calibrator(2, seed=1), data[:33])
    second = Calibrator(2, seed=99)
    second.load_state_dict(first.state_dict())
    train(second, data[33:])
    signals = data[0][1]
    assert torch.equal(whole.probability(signals), second.probability(signals))
    assert whole.diagnostics() == second.diagnostics()


def test_same_seed_same_network_and_global_random_numbers_are_left_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    one, two = Calibrator(3, seed=7), Calibrator(3, seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.probability(torch.ones(5, 3)), two.probability(torch.ones(5, 3)))


@pytest.mark.parametrize(("prior", "shift"), [(0.01, 4.0), (0.05, 3.0), (0.2, 3.0), (0.4, 4.0)])
def test_prior_of_gaussians(prior: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(2)
    positive = torch.randn(2000, generator=generator) + shift
    match = torch.rand(20_000, generator=generator) < prior
    unlabelled = torch.randn(20_000, generator=generator) + shift * match
    assert estimate_prior(positive, unlabelled) == pytest.approx(prior, rel=0.3)


def test_prior_of_unlabelled_pairs_without_matches_is_small() -> None:
    generator = torch.Generator().manual_seed(2)
    estimate = estimate_prior(torch.randn(2000, generator=generator) + 5, torch.randn(20_000, generator=generator))
    assert estimate < 0.002


def test_risk_equals_its_formula_and_never_goes_negative() -> None:
    positive, unlabelled, prior = torch.tensor([2.0, -1.0]), torch.tensor([-3.0, 0.5, -4.0]), 0.3

    def loss(g: float, y: int) -> float:
        return math.log1p(math.exp(-g if y else g))

    gain = sum(loss(g, 1) for g in positive.tolist()) / 2
    cost = sum(loss(g, 0) for g in unlabelled.tolist()) / 3 - prior * sum(loss(g, 0) for g in positive.tolist()) / 2
    assert float(pu_risk(positive, unlabelled, prior)) == pytest.approx(prior * gain + max(0.0, cost), rel=1e-5)
    assert float(pu_risk(torch.tensor([50.0]), torch.tensor([-50.0]), 0.9)) >= 0


def test_risk_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, unlabelled = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (4, 9))
    assert torch.autograd.gradcheck(
        lambda p, u: pu_risk(p, u, 0.2), (positive.requires_grad_(), unlabelled.requires_grad_())
    )
