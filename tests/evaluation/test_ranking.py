"""The one pass over float32 tiles against ranks by whole rows of exact scores; near ties, equal features, precision."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmcontrast.evaluation import metrics, ranking
from mmcontrast.evaluation.positives import PositiveKeys, caption_keys, id_keys
from mmcontrast.evaluation.ranking import fixed_point, rank_both_ways


def by_rows(left: Tensor, right: Tensor, positive: Tensor) -> tuple[list[int], list[float], list[float]]:
    """Ranks and precisions of exact scores, all in one matrix."""
    scores = metrics.exact_units(left) @ metrics.exact_units(right).T
    ranks = metrics.first_ranks(scores, positive).tolist()
    averages = metrics.average_precision_at_r(scores, positive)
    return ranks, averages.tolist(), metrics.r_precision(scores, positive).tolist()


def check(images: Tensor, texts: Tensor, keys: PositiveKeys, tile: int) -> None:
    pairs = keys.pairs(1 << 20)
    assert pairs is not None
    found = rank_both_ways(images, texts, pairs, tile=tile)
    positive = keys.image_queries(0, len(images))
    for one, expected in zip(
        found, (by_rows(images, texts, positive), by_rows(texts, images, positive.T)), strict=True
    ):
        assert one.ranks.tolist() == expected[0]
        assert one.precision.tolist() == pytest.approx(expected[1], abs=1e-12)
        assert one.r_precision.tolist() == pytest.approx(expected[2], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    per=st.integers(1, 4),
    d=st.integers(2, 12),
    tile=st.sampled_from([1, 5, 16, 64]),
    step=st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1.0]),
)
def test_ranks_are_those_of_whole_rows(seed: int, n: int, per: int, d: int, tile: int, step: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    # A few directions only, and steps around the error of float32: ties and near ties everywhere.
    directions = torch.randn(4, d, generator=rng)
    images = directions[torch.randint(4, (n,), generator=rng)] + step * torch.randn(n, d, generator=rng)
    texts = directions[torch.randint(4, (n * per,), generator=rng)] + step * torch.randn(n * per, d, generator=rng)
    owner = torch.arange(n).repeat(per)
    captions = [str(int(number)) for number in torch.randint(3 * n, (n * per,), generator=rng)]
    for keys in (id_keys(owner, n), caption_keys(owner, captions, n)):
        check(images, texts, keys, tile)


@pytest.mark.parametrize("tile", [128, 200, 256, 1000])
def test_several_blocks_and_ragged_tiles(tile: int) -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(515, 16, generator=rng)
    owner = torch.arange(515).repeat_interleave(2)
    texts = images[owner] + 2 * torch.randn(1030, 16, generator=rng)
    check(images, texts, id_keys(owner, 515), tile)


def test_equal_features_are_scored_a_tile_at_a_time() -> None:
    images, texts = torch.ones(300, 8), torch.ones(300, 8)
    pairs = (torch.arange(300), torch.arange(300))
    calls = []

    def exact(left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
        calls.append(len(i))
        return original(left, right, i, j)

    original = ranking._exact
    with patch.object(ranking, "_EXACT_ELEMENTS", 1600), patch.object(ranking, "_exact", exact):
        by_image, by_text = rank_both_ways(images, texts, pairs, tile=128)
    assert max(calls) <= 200  # and not the 16 384 pairs of a tile
    assert by_image.ranks.tolist() == by_text.ranks.tolist() == [300] * 300


def test_fixed_point_is_exact_units() -> None:
    features = 3 * torch.randn(1000, 24, generator=torch.Generator().manual_seed(0))
    with patch.object(ranking, "_ROWS_AT_A_TIME", 7):
        fixed = fixed_point(features)
    assert fixed.dtype == torch.int32
    assert torch.equal(fixed.double() / ranking.FIXED_POINT, metrics.exact_units(features))


def test_autocast_and_reduced_matmul_precision_change_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(200, 64, generator=rng)
    texts = images + 3 * torch.randn(200, 64, generator=rng)
    pairs = (torch.arange(200), torch.arange(200))
    expected = rank_both_ways(images, texts, pairs)[0].ranks
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = rank_both_ways(images, texts, pairs)[0].ranks
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert expected.max() > 1
    assert torch.equal(found, expected)


def test_pairs_are_listed_once_and_up_to_a_limit() -> None:
    keys = PositiveKeys(torch.tensor([[5, 7, 5], [7, 0, 0], [9, 0, 0]]), torch.tensor([7, 5, 5, 7, 0]))
    pairs = keys.pairs(6)
    assert pairs is not None
    expected = keys.image_queries(0, 3).nonzero().T.tolist()
    assert sorted(zip(*(side.tolist() for side in pairs), strict=True)) == sorted(zip(*expected, strict=True))
    assert keys.pairs(5) is None
