"""The sigmoid loss against a literal loop and against its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.losses import sigmoid_loss


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 3, generator=generator, dtype=torch.float64), dim=1)


def literal(
    image: Tensor, text: Tensor, scale: float, bias: float, weights: Tensor, extra: set[tuple[int, int]]
) -> float:
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            logit = scale * float(image[i] @ text[j]) + bias
            match = i == j or (i, j) in extra
            if match:
                total += math.log(1 + math.exp(-logit))
            else:
                total += math.log(1 + math.exp(logit + float(weights[i, j])))
    return total / len(image)


def test_literal_loop_with_weights_and_positives() -> None:
    image, text = unit(5, 0), unit(5, 1)
    weights = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    extra = torch.zeros(5, 5, dtype=torch.bool)
    extra[1, 4] = True
    actual = sigmoid_loss(image, text, 10.0, -10.0, log_weights=weights, positives=extra)
    assert actual.item() == pytest.approx(literal(image, text, 10.0, -10.0, weights, {(1, 4)}), rel=1e-12)


def test_masked_pair_counts_nothing() -> None:
    image, text = unit(2, 3), unit(2, 4)
    weights = torch.full((2, 2), -torch.inf, dtype=torch.float64)
    expected = sum(math.log(1 + math.exp(-(4.0 * float(image[i] @ text[i]) - 1))) for i in range(2)) / 2
    assert sigmoid_loss(image, text, 4.0, -1.0, log_weights=weights).item() == pytest.approx(expected, rel=1e-12)


def test_mean_over_ranks_equals_the_whole_batch() -> None:
    image, text = unit(4, 5), unit(4, 6)
    whole = sigmoid_loss(image, text, 10.0, -10.0)
    parts = [
        sigmoid_loss(image[r], text[r], 10.0, -10.0, all_text_features=text, offset=r.start)
        for r in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_gradients_in_float64() -> None:
    weights = torch.zeros(3, 3, dtype=torch.float64)
    weights[0, 1] = -torch.inf

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return sigmoid_loss(image, text, scale, bias, log_weights=weights)

    scalars = (torch.tensor(5.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64))
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (unit(3, 7), unit(3, 8), *scalars)))
