"""The tiled losses against the whole-matrix ones: values, gradients, precision, memory; one process against several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.losses import sigmoid_loss, symmetric_info_nce, tiled_info_nce, tiled_sigmoid_loss
from mmcontrast.losses.tiled_sigmoid import softplus_sum
from mmcontrast.losses.tiles import PairTile, Tiles

ROWS, DIM = 23, 6


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64, dim: int = DIM) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def matrices() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def noise() -> Tensor:
        return torch.randn(ROWS, ROWS, generator=generator, dtype=torch.float64)

    weights, text_weights = noise(), noise()
    weights[noise() > 1.2] = -torch.inf
    return {
        "log_weights": weights,
        "text_log_weights": text_weights,
        "positives": (noise() > 1.2) * noise().sigmoid(),
        "text_positives": noise() > 1.5,
    }


def dense_tiles(
    log_weights: Tensor | None = None,
    text_log_weights: Tensor | None = None,
    positives: Tensor | None = None,
    text_positives: Tensor | None = None,
) -> Tiles:
    """Tiles out of whole matrices with pictures in rows; without one of the captions' view, that of the pictures'."""
    text_log_weights = log_weights if text_log_weights is None else text_log_weights
    text_positives = positives if text_positives is None else text_positives

    def tile(rows: slice, columns: slice, _: Tensor) -> PairTile:
        def cut(matrix: Tensor | None) -> Tensor | None:
            return None if matrix is None else matrix[rows, columns]

        weights, targets = cut(log_weights), cut(positives)
        return PairTile(
            weights,
            weights if text_log_weights is log_weights else cut(text_log_weights),
            targets,
            targets if text_positives is positives else cut(text_positives),
        )

    return tile


CASES = [
    (),
    ("log_weights",),
    ("text_log_weights",),
    ("log_weights", "text_log_weights"),
    ("positives",),
    ("text_positives",),
    ("log_weights", "positives"),
    ("log_weights", "text_log_weights", "positives", "text_positives"),
]


def whole(image: Tensor, text: Tensor, scale: Tensor, chosen: dict[str, Tensor]) -> Tensor:
    """Captions' views stand with captions in rows there, with pictures in rows in tiles."""
    return symmetric_info_nce(
        image, text, scale, **{name: m.T if name.startswith("text_") else m for name, m in chosen.items()}
    )


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("names", CASES, ids=lambda names: "+".join(names) or "plain")
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [5, 64])
def test_info_nce_equals_the_whole_matrix(names: tuple[str, ...], safe: bool, keep: bool, size: int) -> None:
    inputs = [unit(ROWS, 0).requires_grad_(), unit(ROWS, 1).requires_grad_()]
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    chosen = {name: matrices()[name] for name in names}
    expected = whole(*inputs, scale, chosen)
    tiles = dense_tiles(**chosen) if chosen else None
    actual = tiled_info_nce(*inputs, scale, tiles=tiles, size=size, safe=safe, keep=keep)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(actual, *inputs, scale), gradients(expected, *inputs, scale), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def few_of(dense: Tiles) -> Tiles:
    """The same tiles, each as a list of its pairs that count otherwise than plainly, in no order."""

    def tile(rows: slice, columns: slice, cosines: Tensor) -> PairTile:
        found = dense(rows, columns, cosines)
        named = torch.zeros_like(cosines, dtype=torch.bool)
        for values in (found.log_weights, found.text_log_weights, found.positives, found.text_positives):
            if values is not None:
                named |= values != 0
        where = named.flatten().nonzero().flatten().flip(0)

        def pick(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.flatten()[where]

        weights, positives = pick(found.log_weights), pick(found.positives)
        return PairTile(
            weights,
            weights if found.text_log_weights is found.log_weights else pick(found.text_log_weights),
            positives,
            positives if found.text_positives is found.positives else pick(found.text_positives),
            where,
        )

    return tile


@pytest.mark.parametrize("names", CASES[1:], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_few_weighted_pairs_equal_the_whole_matrix(names: tuple[str, ...], safe: bool, keep: bool) -> None:
    inputs = [unit(ROWS, 0).requires_grad_(), unit(ROWS, 1).requires_grad_()]
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    thin = unit(ROWS, 12, dim=ROWS) > 0.2  # else nearly all pairs would be named
    chosen: dict[str, Tensor] = {}
    for name, matrix in matrices().items():
        if name in names:
            chosen[name] = matrix.where(thin, torch.zeros_like(matrix))
    expected = whole(*inputs, scale, chosen)
    actual = tiled_info_nce(*inputs, scale, tiles=few_of(dense_tiles(**chosen)), size=5, safe=safe, keep=keep)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(actual, *inputs, scale), gradients(expected, *inputs, scale), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_few_pairs_of_the_sigmoid_loss() -> None:
    image, text = unit(ROWS, 0), unit(ROWS, 1)
    tiles = dense_tiles(matrices()["log_weights"], positives=matrices()["text_positives"])
    torch.testing.assert_close(
        tiled_sigmoid_loss(image, text, 12.0, -6.0, tiles=few_of(tiles), size=5),
        tiled_sigmoid_loss(image, text, 12.0, -6.0, tiles=tiles, size=7),
    )


def test_masking_what_dominates_loses_no_digits() -> None:
    """Taking e^50 out of a float32 sum again would leave noise of its last digit in place of the rest."""
    image = unit(6, 13, torch.float32)
    text = F.normalize(image.roll(1, 0) + 0.01 * unit(6, 14, torch.float32), dim=1)  # text i is nearest to image i - 1
    weights = torch.zeros(6, 6)
    weights[torch.arange(6), (torch.arange(6) + 1) % 6] = -torch.inf
    expected = symmetric_info_nce(image.double(), text.double(), 60.0, log_weights=weights.double())
    actual = tiled_info_nce(image, text, 60.0, tiles=few_of(dense_tiles(weights)), size=4)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)


def test_info_nce_gradients_in_float64() -> None:
    chosen = {name: matrix[:7, :7] for name, matrix in matrices().items()}

    def loss(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
        return tiled_info_nce(image, text, log_scale.exp(), tiles=dense_tiles(**chosen), size=3)

    inputs = unit(7, 4), unit(7, 5), torch.tensor(1.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize("names", [(), ("log_weights",), ("positives",), ("log_weights", "positives")])
def test_sigmoid_equals_the_whole_matrix(names: tuple[str, ...]) -> None:
    inputs = [unit(ROWS, 0).requires_grad_(), unit(ROWS, 1).requires_grad_()]
    scalars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (12.0, -6.0)]
    chosen = {name: m > 0 if name == "positives" else m for name, m in matrices().items() if name in names}
    expected = sigmoid_loss(*inputs, *scalars, **chosen)
    tiles = dense_tiles(**chosen) if chosen else None
    actual = tiled_sigmoid_loss(*inputs, *scalars, tiles=tiles, size=5)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(gradients(actual, *inputs, *scalars), gradients(expected, *inputs, *scalars), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_keeps_the_digits_of_small_terms(dtype: torch.dtype) -> None:
    for low, high in ((-100, -40), (-40, -10), (-10, 10), (10, 90)):
        for shape in ((64, 64), (63, 65), (1, 3)):
            logits = torch.linspace(low, high, shape[0] * shape[1], dtype=dtype).view(shape)
            exact = torch.log1p((-logits.double().abs()).exp()) + logits.double().clamp(min=0)
            slope = logits.sigmoid()
            found = softplus_sum(logits, torch.empty(5000, dtype=dtype))
            torch.testing.assert_close(found.double(), exact.sum(), rtol=20 * torch.finfo(dtype).eps, atol=0)
            torch.testing.assert_close(logits, slope, rtol=0, atol=0)


def test_sigmoid_gradients_in_float64() -> None:
    weights = matrices()["log_weights"][:7, :7]

    def loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return tiled_sigmoid_loss(image, text, scale, bias, tiles=dense_tiles(weights), size=3)

    scalars = [torch.tensor(x, dtype=torch.float64) for x in (5.0, -2.0)]
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (unit(7, 4), unit(7, 5), *scalars)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions_at_scale_100(dtype: torch.dtype) -> None:
    """Against float64 of the same rounded features; sums and logits are float32 whatever the features are."""
    rows = unit(200, 6, dtype, 32), unit(200, 7, dtype, 32)
    exact = [x.double().requires_grad_() for x in rows]
    mine = [x.requires_grad_() for x in rows]
    scale = torch.tensor(100.0)
    expected = symmetric_info_nce(*exact, scale.double())
    actual = tiled_info_nce(*mine, scale, size=64)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)
    # Logits of 100 have an error of 100 eps, and with it e^logit; the gradients are rounded to the features' type.
    error = 2e-5 + torch.finfo(dtype).eps
    for got, want in zip(gradients(actual, *mine), gradients(expected, *exact), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=error, atol=error * float(want.abs().max()))


def test_sums_that_underflow_are_done_again_with_running_maxima() -> None:
    """All cosines near -1 at scale 100: e^(-100 - 40) is no float32, and the softmax still is well defined."""
    axis = F.normalize(torch.ones(1, DIM), dim=1)
    noise = unit(9, 8, torch.float32)
    image = F.normalize(axis + 0.01 * noise, dim=1).requires_grad_()
    text = F.normalize(-axis + 0.01 * unit(9, 9, torch.float32), dim=1).requires_grad_()
    expected = symmetric_info_nce(image, text, 100.0)
    actual = tiled_info_nce(image, text, 100.0, size=4, keep=True)
    torch.testing.assert_close(actual, expected)
    for mine, theirs in zip(gradients(actual, image, text), gradients(expected, image, text), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_log_weights_without_bound() -> None:
    image, text = unit(9, 10, torch.float32), unit(9, 11, torch.float32)
    weights = torch.zeros(9, 9)
    weights[0, 4], weights[3, 1] = 300.0, -300.0
    torch.testing.assert_close(
        tiled_info_nce(image, text, 50.0, tiles=dense_tiles(weights), size=4),
        symmetric_info_nce(image, text, 50.0, log_weights=weights),
    )


def test_ranks_together_equal_the_whole_batch() -> None:
    """Three ranks in turn, their sums exchanged by hand: loss is the mean, gradients add up as gathering adds them."""
    chosen = matrices()
    chosen = {name: m[:21, :21] for name, m in chosen.items()}
    image, text = unit(21, 0).requires_grad_(), unit(21, 1).requires_grad_()
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    expected = whole(image, text, scale, chosen)
    tiles = dense_tiles(**chosen)
    parts = [slice(0, 7), slice(7, 14), slice(14, 21)]
    asked: list[list[Tensor]] = []  # what each rank hands to each exchange, in order

    def run(part: slice, known: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        handed: list[Tensor] = []

        def all_reduce(value: Tensor, how: str) -> Tensor:
            handed.append(value.detach().clone())
            return known[len(handed) - 1] if len(handed) <= len(known) else value

        loss = tiled_info_nce(image[part], text, scale, tiles=tiles, offset=part.start, size=4, all_reduce=all_reduce)
        return loss, handed

    known: list[Tensor] = []
    for exchange, how in enumerate(["max", "sum"]):
        asked = [run(part, known)[1] for part in parts]
        stacked = torch.stack([handed[exchange] for handed in asked])
        known.append(stacked.amax(0) if how == "max" else stacked.sum(0))
    losses = [run(part, known)[0] for part in parts]
    torch.testing.assert_close(sum(losses) / 3, expected, rtol=1e-12, atol=1e-12)
    got = gradients(sum(losses) / 3, image, text, scale)
    for mine, theirs in zip(got, gradients(expected, image, text, scale), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_tiles_see_their_cosines_and_places() -> None:
    image, text = unit(10, 0), unit(10, 1)
    seen: dict[tuple[int, int], Tensor] = {}

    def tiles(rows: slice, columns: slice, cosines: Tensor) -> PairTile:
        seen[rows.start, columns.start] = cosines.clone()
        return PairTile()

    tiled_info_nce(image, text, 10.0, tiles=tiles, size=4)
    assert sorted(seen) == [(i, j) for i in (0, 4, 8) for j in (0, 4, 8)]
    torch.testing.assert_close(seen[4, 8], image[4:8] @ text[8:].T)


class _Saved:
    """Bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


@pytest.mark.parametrize(("keep", "least", "most"), [(False, 0, 40_000), (True, 4 * 512**2, 4 * 512**2 + 40_000)])
def test_nothing_but_the_features_is_kept(keep: bool, least: int, most: int) -> None:
    image, text = unit(512, 0, torch.float32).requires_grad_(), unit(512, 1, torch.float32).requires_grad_()
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        tiled_info_nce(image, text, 10.0, size=128, keep=keep)
    features = 2 * 512 * DIM * 4
    assert least <= sum(saved.sizes.values()) - features <= most


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_gradients_scale_with_what_comes_from_above(loss: str) -> None:
    image, text = unit(8, 0).requires_grad_(), unit(8, 1)
    functions: dict[str, Callable[..., Any]] = {
        "info_nce": lambda: tiled_info_nce(image, text, 9.0, size=3),
        "sigmoid": lambda: tiled_sigmoid_loss(image, text, 9.0, -2.0, size=3),
    }
    once, thrice = gradients(functions[loss](), image), gradients(3 * functions[loss](), image)
    torch.testing.assert_close(3 * once[0], thrice[0])
