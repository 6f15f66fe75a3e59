"""The Triton kernels in triton's CPU interpreter, against literal loops and float64 of the whole-matrix losses.

test_triton.py runs this file in a process of its own, where TRITON_INTERPRET=1 is set before anything imports triton.
By hand: TRITON_INTERPRET=1 python -m pytest tests/losses/interpreted_triton.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tiled import CASES, dense_tiles, few_of, matrices, unit, whole
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1] / "negatives"))
from making_batches import random_batch

from mmcontrast.losses import sigmoid_loss, symmetric_info_nce, tiled_info_nce, tiled_sigmoid_loss
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.training import objective as training_objective
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.types import Features

SIZE = 24  # of a rectangle: one and a half blocks high, less than one wide


def pairs(rows: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Captions that resemble their pictures, and the next ones as much, so that no gradient vanishes."""
    image = unit(rows, seed, dim=dim)
    text = F.normalize(image + image.roll(1, 0) + 0.4 * unit(rows, seed + 1, dim=dim), dim=1)
    return [x.to(dtype).requires_grad_() for x in (image, text)]


def scalars(*values: float) -> list[Tensor]:
    return [torch.tensor(value, requires_grad=True) for value in values]


def doubles(inputs: list[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_() for x in inputs]


def compare(
    actual: Tensor, inputs: list[Tensor], expected: Tensor, exact: list[Tensor], error: float, scalar_error: float
) -> None:
    """Loss and gradients: of features to `error` of the largest, of scalars to `scalar_error` of themselves."""
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)
    mine, theirs = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, exact)
    for got, want, x in zip(mine, theirs, inputs, strict=True):
        assert got.dtype == x.dtype
        assert float(want.abs().max()) > 1e-6  # else nothing is compared
        torch.testing.assert_close(
            got.double(), want, rtol=0 if want.dim() else scalar_error, atol=error * float(want.abs().max())
        )


def loop_info_nce(image: list[list[float]], text: list[list[float]], scale: float) -> float:
    """Mean of -log softmax of each row's and each column's own pair."""
    logits = [[scale * sum(a * b for a, b in zip(x, y, strict=True)) for y in text] for x in image]
    total = 0.0
    for i, row in enumerate(logits):
        column = [other[i] for other in logits]
        total += math.log(sum(map(math.exp, row))) + math.log(sum(map(math.exp, column))) - 2 * row[i]
    return total / (2 * len(logits))


def loop_sigmoid(image: list[list[float]], text: list[list[float]], scale: float, bias: float) -> float:
    """Sum over all pairs of -log sigmoid(+-logit), by the pictures."""
    total = 0.0
    for i, x in enumerate(image):
        for j, y in enumerate(text):
            logit = scale * sum(a * b for a, b in zip(x, y, strict=True)) + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(image)


def test_losses_equal_the_literal_loops() -> None:
    image, text = pairs(37, 20)
    lists = image.tolist(), text.tolist()
    info_nce = tiled_info_nce(image, text, 30.0, size=SIZE, kernel="triton")
    assert float(info_nce.detach()) == pytest.approx(loop_info_nce(*lists, 30.0), rel=2e-6)
    sigmoid = tiled_sigmoid_loss(image, text, 12.0, -6.0, size=SIZE, kernel="triton")
    assert float(sigmoid.detach()) == pytest.approx(loop_sigmoid(*lists, 12.0, -6.0), rel=2e-6)


# The interpreter cuts bfloat16 off where a GPU rounds: slopes are off by 2^-8 at most, here.
PRECISIONS = [(torch.float32, 3e-6), (torch.bfloat16, 1e-2)]


@pytest.mark.parametrize(("rows", "dim", "scale"), [(3, 5, 10.0), (32, 16, 100.0), (43, 37, 10.0), (43, 37, 100.0)])
@pytest.mark.parametrize(("dtype", "error"), PRECISIONS)
def test_info_nce(rows: int, dim: int, scale: float, dtype: torch.dtype, error: float) -> None:
    inputs = [*pairs(rows, dim, dtype), *scalars(scale)]
    exact = doubles(inputs)
    actual = tiled_info_nce(*inputs, size=SIZE, kernel="triton")
    compare(actual, inputs, symmetric_info_nce(*exact), exact, error, 2 * error)


@pytest.mark.parametrize(("rows", "dim", "scale", "bias"), [(3, 5, 10.0, -10.0), (43, 37, 100.0, -16.0)])
@pytest.mark.parametrize(("dtype", "error"), PRECISIONS)
def test_sigmoid(rows: int, dim: int, scale: float, bias: float, dtype: torch.dtype, error: float) -> None:
    inputs = [*pairs(rows, dim, dtype), *scalars(scale, bias)]
    exact = doubles(inputs)
    actual = tiled_sigmoid_loss(*inputs, size=SIZE, kernel="triton")
    compare(actual, inputs, sigmoid_loss(*exact), exact, error, 2 * error)


def test_sigmoid_keeps_the_digits_of_small_terms() -> None:
    """Own logits of 30 and others of -30: all terms are e^-30, and 1 + e^-30 is 1 in float32."""
    inputs = [torch.eye(20).requires_grad_(), torch.eye(20).requires_grad_(), *scalars(60.0, -30.0)]
    exact = doubles(inputs)
    actual = tiled_sigmoid_loss(*inputs, size=SIZE, kernel="triton")
    expected = sigmoid_loss(*exact)
    assert 1e-13 < float(expected.detach()) < 1e-10
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, exact)
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_all_cosines_far_below_zero(dtype: torch.dtype, error: float) -> None:
    """e^(-100 - 100) is no float32, and the softmax still is well defined. Gradients are small differences there."""
    axis = F.normalize(torch.ones(1, 12, dtype=torch.float64), dim=1)
    image, text = (F.normalize(sign * axis + 0.05 * unit(40, seed, dim=12), dim=1) for sign, seed in ((1, 8), (-1, 9)))
    inputs, scale = [image.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()], 100.0
    exact = doubles(inputs)
    assert float((exact[0] @ exact[1].T).detach().max()) < -0.9
    actual = tiled_info_nce(*inputs, scale, size=SIZE, kernel="triton")
    compare(actual, inputs, symmetric_info_nce(*exact, scale), exact, error, error)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("names", CASES[1:], ids=lambda names: "+".join(names))
def test_weighted_pairs_and_further_positives(names: tuple[str, ...], listed: bool) -> None:
    image, text = unit(23, 0).float().requires_grad_(), unit(23, 1).float().requires_grad_()
    inputs = [image, text, *scalars(30.0)]
    exact = doubles(inputs)
    thin = unit(23, 12, dim=23) > (0.2 if listed else -2)  # else nearly all pairs would be named
    chosen: dict[str, Tensor] = {}
    for name, matrix in matrices().items():
        if name in names:
            chosen[name] = matrix.where(thin, torch.zeros_like(matrix))
    tiles = few_of(dense_tiles(**chosen)) if listed else dense_tiles(**chosen)
    actual = tiled_info_nce(*inputs, tiles=tiles, size=14, kernel="triton")
    compare(actual, inputs, whole(*exact, chosen), exact, 5e-6, 1e-5)


@pytest.mark.parametrize("names", [("log_weights",), ("positives",), ("log_weights", "positives")])
@pytest.mark.parametrize("listed", [False, True])
def test_weighted_pairs_of_the_sigmoid_loss(names: tuple[str, ...], listed: bool) -> None:
    image, text = unit(23, 0).float().requires_grad_(), unit(23, 1).float().requires_grad_()
    inputs = [image, text, *scalars(12.0, -6.0)]
    exact = doubles(inputs)
    chosen: dict[str, Any] = {name: m > 0 if name == "positives" else m for name, m in matrices().items()}
    chosen = {name: chosen[name] for name in names}
    tiles = few_of(dense_tiles(**chosen)) if listed else dense_tiles(**chosen)
    actual = tiled_sigmoid_loss(*inputs, tiles=tiles, size=14, kernel="triton")
    compare(actual, inputs, sigmoid_loss(*exact, **chosen), exact, 5e-6, 1e-5)


def test_masking_what_dominates_loses_no_digits() -> None:
    image = unit(6, 13)
    text = F.normalize(image.roll(1, 0) + 0.01 * unit(6, 14), dim=1)  # text i is nearest to image i - 1
    weights = torch.zeros(6, 6)
    weights[torch.arange(6), (torch.arange(6) + 1) % 6] = -torch.inf
    inputs = [image.float().requires_grad_(), text.float().requires_grad_(), *scalars(60.0)]
    exact = doubles(inputs)
    actual = tiled_info_nce(*inputs, tiles=few_of(dense_tiles(weights)), size=4, kernel="triton")
    compare(actual, inputs, symmetric_info_nce(*exact, log_weights=weights.double()), exact, 1e-5, 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_two_ranks_together_equal_the_whole_batch(weighted: bool) -> None:
    """Both in turn, their sums exchanged by hand: loss is the mean, gradients add up as gathering adds them."""
    inputs = [*pairs(22, 6), *scalars(30.0)]
    exact = doubles(inputs)
    chosen = {name: m[:22, :22] for name, m in matrices().items()} if weighted else {}
    tiles = dense_tiles(**chosen) if weighted else None
    parts = [slice(0, 11), slice(11, 22)]

    def run(part: slice, known: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        handed: list[Tensor] = []

        def all_reduce(value: Tensor, how: str) -> Tensor:
            handed.append(value.detach().clone())
            return known[len(handed) - 1] if len(handed) <= len(known) else value

        image, text, scale = inputs
        options: dict[str, Any] = {"offset": part.start, "all_reduce": all_reduce, "kernel": "triton"}
        return tiled_info_nce(image[part], text, scale, tiles=tiles, size=12, **options), handed

    known: list[Tensor] = []
    for exchange, how in enumerate(["max", "sum"]):
        stacked = torch.stack([run(part, known)[1][exchange] for part in parts])
        known.append(stacked.amax(0) if how == "max" else stacked.sum(0))
    losses = [run(part, known)[0] for part in parts]
    compare((losses[0] + losses[1]) / 2, inputs, whole(*exact, chosen), exact, 5e-6, 1e-5)
    image, text, *rest = [*pairs(22, 6), *scalars(12.0, -6.0)]
    halves = [
        tiled_sigmoid_loss(image[part], text, *rest, offset=part.start, size=12, kernel="triton") for part in parts
    ]
    exact = doubles([image, text, *rest])
    compare((halves[0] + halves[1]) / 2, [image, text, *rest], sigmoid_loss(*exact), exact, 5e-6, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_blocks_of_a_gpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcontrast.losses import triton_launch

    blocks = triton_launch.HALF if dtype == torch.bfloat16 else triton_launch.WIDE
    monkeypatch.setattr(triton_launch, "INTERPRETED", blocks)
    inputs = [*pairs(200, 150, dtype), *scalars(40.0)]
    assert triton_launch.Rectangles(*inputs, offset=0, size=150).dtype == dtype  # what is multiplied
    exact = doubles(inputs)
    error = 3e-6 if dtype == torch.float32 else 1e-2
    actual = tiled_info_nce(*inputs, size=150, kernel="triton")
    compare(actual, inputs, symmetric_info_nce(*exact), exact, error, 2 * error)


class _Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operation makes."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():  # the interpreter copies bytes
            self.count = max(self.count, out.numel())
        return out


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_memory_bits_and_upstream(loss: str) -> None:
    """No matrix of all pairs; the same bits twice; gradients scale with what comes from above."""
    image, text = pairs(48, 4)

    def gradient(factor: float) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"size": 24, "kernel": "triton"}
        more = () if loss == "info_nce" else (-2.0,)
        function: Any = tiled_info_nce if loss == "info_nce" else tiled_sigmoid_loss
        return torch.autograd.grad(factor * function(image, text, 9.0, *more, **options), [image, text])

    with _Largest() as largest:
        once = gradient(1.0)
    assert largest.count == 24 * 24
    assert all(torch.equal(*both) for both in zip(once, gradient(1.0), strict=True))
    torch.testing.assert_close([4 * x for x in once], list(gradient(4.0)))


def test_float64_takes_torch() -> None:
    image, text = unit(9, 0), unit(9, 1)
    assert tiled_info_nce(image, text, 9.0, kernel="triton").dtype == torch.float64
    assert tiled_sigmoid_loss(image, text, 9.0, -3.0, kernel="triton").dtype == torch.float64


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
@pytest.mark.parametrize("known", ["mask", "positives"])
def test_the_objective_takes_it(loss: Any, known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default rule, whose known matches are listed."""
    features, batch, _ = random_batch(12)
    bias = torch.tensor(-5.0, requires_grad=True)
    features = Features(features.image, features.text, features.logit_scale, bias)
    inputs = [features.image, features.text, features.logit_scale]
    weighting = Weighting(RuleSettings(known_positives=known))
    expected = ContrastiveObjective(loss, weighting)(features, batch).loss
    monkeypatch.setattr(training_objective, "TILED_FROM", 2)
    actual = ContrastiveObjective(loss, weighting, kernel="triton")(features, batch).loss
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs))
