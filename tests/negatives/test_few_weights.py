"""The listed pairs of a large batch count what all rules say of them, and next to nothing is missed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from making_batches import VOCABULARY, random_batch

from mmcontrast.negatives import few_weights
from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.few_weights import FewWeights
from mmcontrast.negatives.known import MatchKeys, known_pairs, known_positives
from mmcontrast.negatives.pair_weights import PairWeights, Weights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.types import NO_KEY

N = 64
TILES = [(slice(0, 40), slice(0, 24)), (slice(40, 64), slice(24, 64))]


def batch_of(number: int) -> GlobalBatch:
    return gather_batch(*random_batch(N, seed=number, first_index=N * number, siblings=8))


def pairs_of(rules: tuple[Any, ...], linked: bool = False, progress: float = 1.0, **numbers: Any) -> PairWeights:
    asks = "calibrated" in rules
    calibrator, words = (new_calibrator(linked), WordStatistics(VOCABULARY)) if asks else (None, None)
    weighting = Weighting(RuleSettings(rules=rules, **numbers), calibrator=calibrator, words=words)
    for number in range(45 if asks else 1):
        weighting(batch_of(number), 0.0)
    return weighting(batch_of(46), progress)[0]


def listed(found: Weights, name: str, rows: slice, columns: slice) -> torch.Tensor:
    """A list as a matrix, zeros elsewhere."""
    assert found.where is not None
    shape = rows.stop - rows.start, columns.stop - columns.start
    assert len(found.where.unique()) == len(found.where)
    values = getattr(found, name)
    return torch.zeros(shape).flatten().index_copy(0, found.where, values.float()).view(shape)


@pytest.mark.parametrize(
    ("rules", "numbers"),
    [
        (("duplicates",), {}),
        (("duplicates",), {"known_positives": "positives"}),
        (("calibrated",), {}),
        (("duplicates", "calibrated"), {}),
        (("duplicates", "calibrated"), {"linked": True}),
        (("duplicates", "calibrated"), {"soft_positives": 0.1, "known_positives": "positives"}),
    ],
)
def test_listed_pairs_count_what_the_rules_say(rules: Any, numbers: Any) -> None:
    pairs = pairs_of(rules, **numbers)
    few = FewWeights.of(pairs)
    assert few is not None
    if few.screen is not None:
        few.screen = replace(few.screen, threshold=-math.inf)  # all pairs are listed
    for rows, columns in TILES:
        cosines = pairs.batch.image[rows] @ pairs.batch.text[columns].T
        own = torch.arange(N)[rows][:, None] == torch.arange(N)[columns]
        expected, found = pairs.tile(rows, columns, cosines), few.tile(rows, columns, cosines)
        for name in ("log_weights", "text_log_weights", "positives", "text_positives"):
            value = getattr(expected, name)
            assert (value is None) == (getattr(found, name) is None)
            if value is not None:
                mine = listed(found, name, rows, columns).masked_fill(own, 0.0)
                torch.testing.assert_close(mine, value.float().masked_fill(own, 0.0), rtol=1e-3, atol=1e-3)


def test_few_pairs_are_listed_and_few_matches_missed() -> None:
    pairs = pairs_of(("duplicates", "calibrated"))
    few = FewWeights.of(pairs)
    assert few is not None
    assert pairs.calibrator is not None
    most = max(few_weights.MOST, few_weights.MOST_PER_PRIOR * pairs.calibrator.prior)
    everyone = slice(0, N)
    cosines = pairs.batch.image @ pairs.batch.text.T
    found = few.tile(everyone, everyone, cosines)
    assert found.where is not None
    known = known_positives(pairs.batch.keys, pairs.batch.keys)
    assert int(known.sum()) < len(found.where) <= most * N**2 + int(known.sum()) + 1
    asked = pairs._probability(everyone, everyone, cosines)
    assert asked is not None
    open_pairs = ~known.flatten()
    is_listed = torch.zeros(N * N, dtype=torch.bool)
    is_listed[found.where] = True
    p = asked[0].flatten()
    best = p[open_pairs].sort(descending=True).values[: int((is_listed & open_pairs).sum())]
    assert float(p[is_listed & open_pairs].sum()) > 0.9 * float(best.sum())


def test_known_pairs_are_listed_whatever_the_screen_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_weights, "MOST", 0.0)
    pairs = pairs_of(("calibrated",))
    pairs.settings = RuleSettings(rules=("duplicates", "calibrated"))
    few = FewWeights(pairs, known_pairs(pairs.batch.keys, pairs.batch.keys, N**2))
    found = few.tile(slice(0, N), slice(0, N), pairs.batch.image @ pairs.batch.text.T)
    known = known_positives(pairs.batch.keys, pairs.batch.keys).flatten().nonzero().flatten()
    assert found.where is not None
    assert found.log_weights is not None
    assert set(known.tolist()) <= set(found.where.tolist())
    assert torch.equal(found.where[found.log_weights == -torch.inf].sort().values, known)


@pytest.mark.parametrize("rule", ["text_similarity", "margin", "quantile", "hardness", "oracle"])
def test_rules_of_most_pairs_are_not_listed(rule: Any) -> None:
    settings = RuleSettings(rules=("duplicates", rule), quantile=0.1)
    weighting = Weighting(settings, words=WordStatistics(VOCABULARY))
    assert FewWeights.of(weighting(batch_of(0), 1.0)[0]) is None


def test_where_every_second_pair_is_known_none_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_weights, "MOST_KNOWN", 0.01)
    assert FewWeights.of(pairs_of(("duplicates",))) is None


def test_known_pairs_are_those_of_the_comparison_of_all() -> None:
    generator = torch.Generator().manual_seed(0)

    def keys(n: int) -> MatchKeys:
        captions = torch.randint(1, 30, (n, 3), generator=generator)
        captions[::2, 2] = NO_KEY
        group = torch.randint(0, 5, (n,), generator=generator)  # 0 is none
        return MatchKeys(torch.randint(0, 40, (n,), generator=generator), captions[:, 0], captions, group)

    for _ in range(10):
        images, texts = keys(17), keys(23)
        expected = known_positives(images, texts).nonzero().T
        found = known_pairs(images, texts, 1000)
        assert found is not None
        assert torch.equal(found, expected)
        assert known_pairs(images, texts, 2) is None
