"""Rules about negatives against slow literal loops, and what each must and must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcontrast.losses import info_nce, symmetric_info_nce
from mmcontrast.negatives import rules


def cosines(rows: int = 5, columns: int = 7, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def own(rows: int, columns: int, offset: int = 0) -> Tensor:
    return torch.arange(rows)[:, None] + offset == torch.arange(columns)


def test_text_similarity_is_log_of_one_minus_overlap_down_to_the_floor() -> None:
    words = torch.tensor([[0.0, 0.5, 0.99, 1.0]])
    expected = [0.0, math.log(0.5), math.log(0.02), math.log(0.02)]
    assert rules.text_similarity_log_weights(words, floor=0.02)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_attenuation_is_log_of_one_minus_p_down_to_the_floor_times_its_strength() -> None:
    p = torch.tensor([0.0, 0.3, 0.999])
    expected = [0.0, 0.5 * math.log(0.7), 0.5 * math.log(0.02)]
    assert rules.attenuation(p, floor=0.02, strength=0.5).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_margin_takes_out_what_is_nearly_as_close_as_the_true_pair(relative: bool) -> None:
    cross, margin = cosines(), 0.3
    true = torch.tensor([0.9, 0.5, -0.2, 0.1, 0.7], dtype=torch.float64)
    weights = rules.margin_log_weights(cross, true, margin, relative)
    for i in range(5):
        limit = float(true[i]) * (1 - margin) if relative else float(true[i]) - margin
        for j in range(7):
            assert float(weights[i, j]) == (-math.inf if float(cross[i, j]) > limit else 0.0)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_threshold_is_that_of_each_anchors_closest_but_never_its_own(count: int) -> None:
    similarity = cosines()
    similarity[torch.arange(5), torch.arange(5)] = 1.0
    out = (similarity >= rules.closest_threshold(similarity, count, own(5, 7))[:, None]) & ~own(5, 7)
    assert out.sum(dim=1).tolist() == [count] * 5
    assert not out[own(5, 7)].any()
    for i in range(5):
        others = [j for j in range(7) if j != i]
        closest = sorted(others, key=lambda j: -float(similarity[i, j]))[:count]
        assert set(out[i].nonzero().flatten().tolist()) == set(closest)


def hardened(logits: Tensor, beta: float, own: Tensor) -> Tensor:
    tilted = (beta * logits).masked_fill(own, -torch.inf)
    return (tilted - rules.log_mean(*rules.sum_tilted(tilted, dim=1))[:, None]).masked_fill(own, 0.0)


def kappas(near: Tensor, near_share: Tensor, own: Tensor, strength: float) -> Tensor:
    counts = (near & ~own).sum(dim=1), (~near & ~own).sum(dim=1)
    inside, outside = rules.stratum_log_weights(*counts, near_share, strength)
    return torch.where(near, inside[:, None], outside[:, None]).masked_fill(own, 0.0)


def test_hardness_equals_the_papers_loop_and_is_1_on_average() -> None:
    logits, beta = 10 * cosines(), 0.3
    weights = hardened(logits, beta, own(5, 7))
    for i in range(5):
        others = [j for j in range(7) if j != i]
        mean = sum(math.exp(beta * float(logits[i, j])) for j in others) / len(others)
        for j in others:
            assert float(weights[i, j].exp()) == pytest.approx(math.exp(beta * float(logits[i, j])) / mean)
    assert (weights.exp() * ~own(5, 7)).sum(dim=1).tolist() == pytest.approx([6.0] * 5)


def test_hardness_leaves_out_what_is_no_negative() -> None:
    logits = 10 * cosines()
    out = torch.zeros(5, 7, dtype=torch.bool)
    out[:, 6] = True
    weights = hardened(logits.masked_fill(out, -torch.inf), 0.3, own(5, 7))
    expected = hardened(logits[:, :6], 0.3, own(5, 6))
    torch.testing.assert_close(weights[:, :6], expected)
    assert (weights[:, 6] == -torch.inf).all()


def test_hardness_of_beta_0_changes_nothing() -> None:
    assert hardened(cosines(), 0.0, own(5, 7)).abs().max() < 1e-12


def test_kappas_monte_carlo_mean_over_guided_batches_equals_the_full_sum() -> None:
    """Risk "sampler bias": stratified batches, half of them near, against the sum over all other pairs."""
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(6), [30, 10, 20, 15, 15, 10])
    values = torch.as_tensor(np.exp(generator.normal(size=100) + 0.5 * clusters))
    anchor, size = 5, 17
    near_all = np.flatnonzero((clusters == clusters[anchor]) & (np.arange(100) != anchor))
    far_all = np.flatnonzero(clusters != clusters[anchor])
    near_share = torch.tensor([len(near_all) / 99], dtype=torch.float64)
    estimates = []
    for _ in range(4000):
        columns = np.concatenate(
            [[anchor], generator.choice(near_all, 8, replace=False), generator.choice(far_all, 8, replace=False)]
        )
        near = torch.as_tensor(clusters[columns] == clusters[anchor])[None]
        weights = kappas(near, near_share, own(1, size), strength=1.0)
        estimates.append(float((weights.exp() * values[columns])[0, 1:].mean()))
    full = float(values[np.arange(100) != anchor].mean())
    plain = float(np.mean([float(values[near_all].mean()), float(values[far_all].mean())]))
    error = float(np.std(estimates) / math.sqrt(len(estimates)))
    assert abs(np.mean(estimates) - full) < 4 * error
    assert abs(plain - full) > 20 * error  # without kappa the guided batches are far off


def test_kappa_of_a_uniform_batch_is_1_and_strength_0_is_0() -> None:
    near = torch.tensor([[True, True, True, False, False, False, False]])
    share = torch.tensor([2 / 6])
    assert kappas(near, share, own(1, 7), 1.0).abs().max() < 1e-6
    assert not kappas(near, torch.tensor([0.9]), own(1, 7), 0.0).any()


@pytest.mark.parametrize("column", [2, 6])
def test_a_weight_towards_0_equals_deleting_the_column(column: int) -> None:
    """Risk "wrong masking"."""
    logits = (20 * cosines(3, 7)).requires_grad_()
    kept = [j for j in range(7) if j != column]
    targets = torch.arange(3)
    if column == 2:
        logits = logits[:2]
        targets = targets[:2]
    weights = torch.zeros_like(logits)
    weights[:, column] = math.log(1e-12)
    deleted = torch.nn.functional.cross_entropy(logits[:, kept], targets)
    torch.testing.assert_close(info_nce(logits + weights), deleted)


def test_effective_negatives_counts_equal_weights_fully_and_removed_ones_not() -> None:
    weights = torch.zeros(2, 6)
    weights[1, 3:] = -torch.inf
    assert rules.effective_negatives(weights, own(2, 6)).tolist() == pytest.approx([5.0, 2.0])


@pytest.mark.parametrize(("progress", "value"), [(0.0, 0.0), (0.1, 0.0), (0.15, 0.5), (0.2, 1.0), (1.0, 1.0)])
def test_ramp(progress: float, value: float) -> None:
    assert rules.ramp(progress, start=0.1, length=0.1) == pytest.approx(value)


def test_ramp_without_length_is_a_step() -> None:
    assert [rules.ramp(x, 0.1, 0.0) for x in (0.09, 0.1)] == [0.0, 1.0]


def test_gradient_of_the_weighted_loss_is_that_of_the_formula() -> None:
    """Risk "wrong gradients": dL/ds_ij = (P_ij - delta_ij) * scale / B in a direction, and gradcheck in float64."""
    similarity = cosines(4, 4).requires_grad_()
    weights = rules.attenuation(torch.rand(4, 4, dtype=torch.float64), floor=0.02).masked_fill(own(4, 4), 0.0)
    scale = 7.0
    loss = info_nce(scale * similarity + weights)
    (gradient,) = torch.autograd.grad(loss, similarity)
    probability = (scale * similarity + weights).softmax(dim=1)
    torch.testing.assert_close(gradient, (probability - torch.eye(4, dtype=torch.float64)) * scale / 4)
    image, text = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda i, t: symmetric_info_nce(i, t, scale, log_weights=weights, text_log_weights=weights.T), (image, text)
    )


def test_weighted_targets_are_a_weighted_mean_of_log_probabilities() -> None:
    logits = 5 * cosines(3, 5)
    targets = torch.tensor([[0, 0.9, 0, 0, 0], [0, 0, 0, 0, 0], [0.6, 0, 0, 0, 0.7]], dtype=torch.float64)
    expected = 0.0
    log_p = logits.log_softmax(dim=1)
    for i in range(3):
        wanted = {j: float(targets[i, j]) for j in range(5) if targets[i, j] > 0} | {i: 1.0}
        expected -= sum(w * float(log_p[i, j]) for j, w in wanted.items()) / sum(wanted.values())
    assert float(info_nce(logits, positives=targets)) == pytest.approx(expected / 3)


def test_targets_of_weight_1_equal_bool_positives() -> None:
    logits, extra = 5 * cosines(3, 5), cosines(3, 5) > 0.3
    assert torch.equal(info_nce(logits, positives=extra), info_nce(logits, positives=extra.double()))
