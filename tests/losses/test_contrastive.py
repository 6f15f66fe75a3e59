"""Symmetric InfoNCE against slow literal loops, in float64, with its weights, masks and extra positives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.losses import info_nce, symmetric_info_nce


def unit(rows: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def literal_direction(
    anchors: Tensor, candidates: Tensor, scale: float, log_weights: Tensor, positives: list[set[int]]
) -> float:
    """-1/b sum_i 1/|P(i)| sum_{p in P(i)} log(e^{a_ip} / sum_j w_ij e^{a_ij}), one number at a time."""
    total = 0.0
    for i in range(len(anchors)):
        terms = []
        for j in range(len(candidates)):
            cosine = sum(float(a) * float(c) for a, c in zip(anchors[i], candidates[j], strict=True))
            weight = 1.0 if j in positives[i] else math.exp(float(log_weights[i, j]))
            terms.append((cosine * scale, weight))
        denominator = sum(weight * math.exp(a) for a, weight in terms)
        total -= sum(math.log(math.exp(terms[p][0]) / denominator) for p in positives[i]) / len(positives[i])
    return total / len(anchors)


def test_plain_loss_is_the_literal_loop() -> None:
    image, text = unit(6, 4, 0), unit(6, 4, 1)
    own = [{i} for i in range(6)]
    zeros = torch.zeros(6, 6)
    expected = (literal_direction(image, text, 7.0, zeros, own) + literal_direction(text, image, 7.0, zeros, own)) / 2
    assert symmetric_info_nce(image, text, 7.0).item() == pytest.approx(expected, rel=1e-12)


def test_none_is_bitwise_the_plain_clip_loss() -> None:
    image, text = unit(8, 5, 0).float(), unit(8, 5, 1).float()
    scale = torch.tensor(14.3)
    labels = torch.arange(8)
    plain = (F.cross_entropy(scale * image @ text.T, labels) + F.cross_entropy(scale * text @ image.T, labels)) / 2
    assert torch.equal(symmetric_info_nce(image, text, scale), plain)


def test_log_weights_of_both_views_are_the_literal_loop() -> None:
    image, text = unit(5, 4, 2), unit(5, 4, 3)
    generator = torch.Generator().manual_seed(4)
    weights, text_weights = (torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    own = [{i} for i in range(5)]
    expected = (
        literal_direction(image, text, 5.0, weights, own) + literal_direction(text, image, 5.0, text_weights, own)
    ) / 2
    actual = symmetric_info_nce(image, text, 5.0, log_weights=weights, text_log_weights=text_weights)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_extra_positives_are_the_literal_loop() -> None:
    image, text = unit(5, 4, 5), unit(5, 4, 6)
    extra = torch.zeros(5, 5, dtype=torch.bool)
    extra[0, 3] = extra[2, 1] = True
    rows = [{0, 3}, {1}, {2, 1}, {3}, {4}]
    columns = [{0}, {1, 2}, {2}, {3, 0}, {4}]
    zeros = torch.zeros(5, 5)
    expected = (
        literal_direction(image, text, 5.0, zeros, rows) + literal_direction(text, image, 5.0, zeros, columns)
    ) / 2
    assert symmetric_info_nce(image, text, 5.0, positives=extra).item() == pytest.approx(expected, rel=1e-12)


def test_minus_infinity_equals_deleting_the_column() -> None:
    image, text = unit(4, 3, 7), unit(4, 3, 8)
    weights = torch.zeros(4, 4, dtype=torch.float64)
    weights[:3, 3] = -torch.inf  # text 3 is nobody's negative
    logits = 9.0 * image @ text.T
    rows = [F.cross_entropy(logits[i, :3][None], torch.tensor([i])) for i in range(3)]
    expected = (sum(rows) + F.cross_entropy(logits[3][None], torch.tensor([3]))) / 4
    text_to_image = F.cross_entropy(logits.T, torch.arange(4))
    actual = symmetric_info_nce(image, text, 9.0, log_weights=weights, text_log_weights=torch.zeros(4, 4))
    assert actual.item() == pytest.approx(((expected + text_to_image) / 2).item(), rel=1e-12)


def test_masked_pairs_get_no_gradient_and_no_nan() -> None:
    image, text = unit(3, 3, 9).requires_grad_(), unit(3, 3, 10).requires_grad_()
    weights = torch.full((3, 3), -torch.inf, dtype=torch.float64)
    loss = symmetric_info_nce(image, text, 100.0, log_weights=weights)
    loss.backward()
    assert loss.item() == 0.0  # nothing left but the positives, whose own -inf is ignored
    assert image.grad is not None
    assert torch.equal(image.grad, torch.zeros_like(image))


@pytest.mark.parametrize("with_positives", [False, True])
def test_gradients_in_float64(with_positives: bool) -> None:
    weights = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights[1, 2] = -torch.inf
    extra = torch.zeros(4, 4, dtype=torch.bool)
    extra[0, 2] = with_positives

    def loss(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
        positives = extra if with_positives else None
        return symmetric_info_nce(image, text, log_scale.exp(), log_weights=weights, positives=positives)

    inputs = (unit(4, 3, 11), unit(4, 3, 12), torch.tensor(1.5, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))


def test_gradient_of_the_logits_is_softmax_minus_delta() -> None:
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    info_nce(logits).backward()
    expected = (logits.detach().softmax(dim=1) - torch.eye(4, dtype=torch.float64)) / 4
    torch.testing.assert_close(logits.grad, expected)


def test_mean_over_ranks_equals_the_whole_batch() -> None:
    image, text = unit(6, 4, 13), unit(6, 4, 14)
    weights = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = symmetric_info_nce(image, text, 8.0, log_weights=weights)
    parts = [
        symmetric_info_nce(
            image[rows],
            text[rows],
            8.0,
            log_weights=weights[rows],
            text_log_weights=weights.T[rows],
            all_image_features=image,
            all_text_features=text,
            offset=rows.start,
        )
        for rows in (slice(0, 2), slice(2, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(parts) / 3, whole)


def test_shift_of_all_logits_changes_nothing() -> None:
    image, text = unit(4, 3, 15), unit(4, 3, 16)
    torch.testing.assert_close(
        symmetric_info_nce(image, text, 8.0, logit_bias=-10.0), symmetric_info_nce(image, text, 8.0)
    )


def test_random_features_score_the_log_of_the_batch() -> None:
    image, text = unit(512, 64, 17), unit(512, 64, 18)
    assert symmetric_info_nce(image, text, 1.0).item() == pytest.approx(math.log(512), abs=0.02)
