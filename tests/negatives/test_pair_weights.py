"""Rectangles of a batch's pairs count what all pairs at once do, whatever the rules and however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from making_batches import VOCABULARY, WIDTH, random_batch

from mmcontrast.negatives import anchor_statistics, pair_weights, signals, words
from mmcontrast.negatives import batch as batches
from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import anchor_signals, new_calibrator
from mmcontrast.negatives.pair_weights import PairWeights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics, overlap

N = 48


def batch_of(number: int, n: int = N) -> GlobalBatch:
    return gather_batch(*random_batch(n, seed=number, first_index=n * number, siblings=8))


def weights_of(rules: tuple[Any, ...], linked: bool = False, **numbers: Any) -> PairWeights:
    """Of a batch, by a weighting that has learnt."""
    clusters = Clusters(N * 50, WIDTH, items_per_cluster=64, seed=0, device="cpu")
    features = torch.nn.functional.normalize(torch.randn(N * 50, WIDTH, generator=torch.Generator().manual_seed(0)))
    clusters.observe(torch.arange(N * 50), features, features)
    clusters.refresh()
    weighting = Weighting(
        RuleSettings(rules=rules, **numbers),
        calibrator=new_calibrator(linked) if "calibrated" in rules else None,
        words=WordStatistics(VOCABULARY),
        clusters=clusters,
    )
    for number in range(45 if "calibrated" in rules else 1):
        weighting(batch_of(number), 0.0)
    return weighting(batch_of(46), 1.0)[0]


EVERYTHING = ("duplicates", "oracle", "text_similarity", "margin", "quantile", "calibrated", "hardness")
CASES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *(((rule,), {"quantile": 0.1}) for rule in EVERYTHING if rule != "calibrated"),
    ((), {"correction": 0.7}),
    (("calibrated",), {}),
    (("calibrated",), {"linked": True}),
    (("calibrated", "duplicates"), {"soft_positives": 0.1, "known_positives": "positives"}),
    (EVERYTHING, {"quantile": 0.1, "correction": 0.5, "soft_positives": 0.1}),
    (EVERYTHING, {"quantile": 0.1, "correction": 0.5, "soft_positives": 0.1, "linked": True}),
]


@pytest.mark.parametrize(("names", "numbers"), CASES)
def test_tiles_are_parts_of_the_whole(names: Any, numbers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor_statistics, "BLOCK", 20)
    pairs = weights_of(names, **numbers)
    whole = pairs.dense()
    assert pairs.changes
    changed = [name for name, value in vars(whole).items() if value is not None]
    assert changed
    for rows in (slice(0, 17), slice(17, 48)):
        for columns in (slice(0, 30), slice(30, 48)):
            cosines = pairs.batch.image[rows] @ pairs.batch.text[columns].T
            for given in (None, cosines):
                part = pairs.tile(rows, columns, given)
                for name, value in vars(whole).items():
                    mine = getattr(part, name)
                    assert (mine is None) == (value is None)
                    if value is not None:
                        theirs = (value.T if name.startswith("text_") else value)[rows, columns]
                        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_views_that_agree_are_one_tensor() -> None:
    """The loss then takes one exponential for both."""
    agree = weights_of(("duplicates", "text_similarity")).tile(slice(0, 9), slice(3, 20))
    assert agree.log_weights is agree.text_log_weights
    differ = weights_of(("margin",)).tile(slice(0, 9), slice(3, 20))
    assert differ.log_weights is not differ.text_log_weights


@pytest.mark.parametrize("linked", [False, True])
def test_it_asks_with_the_signals_that_it_learns_from(linked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a batch so large that ranks are taken among a part of it."""
    monkeypatch.setattr(signals, "LARGE", 20)
    monkeypatch.setattr(signals, "MOST_RANKED", 16)
    monkeypatch.setattr(batches, "LARGE", 20)
    monkeypatch.setattr(batches, "COMPACT", WIDTH // 2)
    batch = batch_of(3)
    assert batch.compared[0].shape == (N, WIDTH // 2)
    statistics = WordStatistics(VOCABULARY)
    statistics.update(batch.input_ids, batch.attention_mask)
    rows, everyone = torch.arange(N), slice(0, N)
    vectors = statistics.vectors(batch.input_ids, batch.attention_mask)
    rankings = signals.Rankings.of(batch.image, batch.text, batch.compared, linked=linked)
    assert rankings.image_text.shape == (N, 16)
    found = signals.tile_signals(
        batch.compared,
        overlap(vectors, vectors),
        (everyone, everyone),
        batch.image @ batch.text.T,
        rankings,
    )
    for mine, theirs in zip(found, anchor_signals(batch, statistics, rows, linked=linked), strict=True):
        torch.testing.assert_close(mine, theirs)
    place = torch.tensor([3, 47, 0, 20]), torch.tensor([5, 0, 46, 20])
    similarities = [x[place] for x in found[0].unbind(dim=-1)[: (found[0].shape[-1] + 1) // 2]]
    single = signals.pair_signals_at(similarities, place, rankings)
    torch.testing.assert_close(single[0], found[0][place])
    torch.testing.assert_close(single[1], found[1][place[::-1]])


def test_diagnostics_of_a_part_of_the_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = weights_of(("duplicates", "calibrated"))
    every = pairs.diagnostics()
    monkeypatch.setattr(pair_weights, "DIAGNOSED", 24)
    some = pairs.diagnostics()
    assert some.keys() == every.keys() >= {"effective_negatives", "known_positive_share", "false_negative_share"}
    assert float(some["effective_negatives"]) != float(every["effective_negatives"])
    assert float(some["effective_negatives"]) == pytest.approx(float(every["effective_negatives"]), rel=0.1)


def test_sketched_captions_overlap_as_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 3000, (300, 12), generator=generator)
    ids[::3, :8] = ids[1::3, :8]  # two thirds of the tokens in common
    ids[:, 3] = ids[:, 2]  # a token twice counts once
    mask = torch.ones_like(ids)
    mask[5:, 10:] = 0
    statistics = WordStatistics(3000)
    statistics.update(ids, mask)
    assert len(ids.unique()) > words.SKETCHED
    sketch = statistics.vectors(ids, mask)
    assert sketch.shape == (300, words.SKETCH_WIDTH)
    exact = statistics.similarity((ids, mask), (ids, mask))
    error = overlap(sketch, sketch) - exact
    assert float(error.square().mean().sqrt()) < 0.07
    assert float(error[exact > 0.5].mean().abs()) < 0.02
    monkeypatch.setattr(words, "SKETCHED", 3000)
    torch.testing.assert_close(overlap(*2 * (statistics.vectors(ids, mask),)), exact)
