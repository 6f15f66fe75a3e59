"""How probably two items match, by the features that clusters remember."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from making_batches import VOCABULARY, WIDTH, random_batch
from torch import Tensor

from mmcontrast.negatives import judge as judge_module
from mmcontrast.negatives.batch import gather_batch
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.judge import REFERENCE, StoredPairJudge
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics

ITEMS = 256


def taught(steps: int = 45, *, linked: bool = False) -> tuple[Calibrator, WordStatistics]:
    calibrator, words = new_calibrator(linked), WordStatistics(VOCABULARY)
    weighting = Weighting(RuleSettings(rules=("calibrated",)), calibrator=calibrator, words=words)
    for number in range(steps):
        weighting(gather_batch(*random_batch(32, seed=number, first_index=32 * number, siblings=8)), 0.0)
    return calibrator, words


@pytest.fixture(scope="module")
def learnt() -> tuple[Calibrator, WordStatistics]:
    return taught()


def judge_of(learnt: tuple[Calibrator, WordStatistics], seen: int = ITEMS) -> tuple[StoredPairJudge, Tensor]:
    """A judge of 256 items, of which the first ones were seen; and the items' classes."""
    features, batch, _ = random_batch(ITEMS, seed=500)
    clusters = Clusters(ITEMS, WIDTH, items_per_cluster=32, seed=0, device="cpu")
    clusters.observe(batch.index[:seen], features.image[:seen], features.text[:seen])
    return (
        StoredPairJudge(clusters, *learnt, tokens=lambda rows: (batch.input_ids[rows], batch.attention_mask[rows])),
        batch.label,
    )


@pytest.mark.parametrize("linked", [False, True])
def test_pairs_in_a_literal_loop(linked: bool) -> None:
    learnt = taught(linked=linked)
    judge, _ = judge_of(learnt)
    first, second = torch.tensor([3, 10, 200, 7]), torch.tensor([9, 11, 4, 7])
    found = judge(first, second)
    assert found is not None
    others = torch.randint(ITEMS, (REFERENCE,), generator=torch.Generator().manual_seed(0))
    image, text, _ = judge.clusters.stored(torch.arange(ITEMS))
    calibrator, words = learnt

    def rank(value: Tensor, reference: Tensor, slack: float) -> float:
        above = int((reference > value + slack).sum())
        return float(torch.tensor(REFERENCE / min(above + 1, REFERENCE)).log())

    def expected(i: int, j: int, overlap: float, slack: float) -> float:
        there = (image[i] @ text[j], text[others] @ image[i])
        back = (text[i] @ image[j], image[others] @ text[i])
        pictures = (image[i] @ image[j], image[others] @ image[i])
        captions = (text[i] @ text[j], text[others] @ text[i])
        sides = []
        for view in ([there, captions, back, pictures], [back, captions, there, pictures]):
            seen = view if linked else view[:2]
            signals = [*(float(value) for value, _ in seen), overlap, *(rank(*compared, slack) for compared in seen)]
            sides.append(float(calibrator.probability(torch.tensor(signals))))
        return max(sides)

    for place, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        overlap = float(words.pairwise(judge.tokens(first[place, None]), judge.tokens(second[place, None])))
        # An item that is among the others itself ties but for the last bit, which decides its rank.
        low, high = (expected(i, j, overlap, slack) for slack in (-1e-6, 1e-6))
        assert low - 1e-4 <= float(found[place]) <= high + 1e-4


def test_items_of_a_class_match_rather_than_others(learnt: tuple[Calibrator, WordStatistics]) -> None:
    judge, label = judge_of(learnt)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(ITEMS, (2000,), generator=generator) for _ in range(2))
    found = judge(first, second)
    assert found is not None
    assert found.shape == (2000,)
    assert not found.requires_grad
    same = label[first] == label[second]
    assert float(found[same].mean()) > 1.5 * float(found[~same].mean())


def test_in_pieces_it_says_the_same(learnt: tuple[Calibrator, WordStatistics], monkeypatch: pytest.MonkeyPatch) -> None:
    judge, _ = judge_of(learnt)
    first, second = torch.arange(100), torch.arange(100) + 50
    whole = judge(first, second)
    monkeypatch.setattr(judge_module, "PIECE", 7)
    pieces = judge(first, second)
    assert whole is not None
    assert pieces is not None
    torch.testing.assert_close(whole, pieces)
    empty = judge(first[:0], second[:0])
    assert empty is not None
    assert len(empty) == 0


def test_what_was_not_seen_is_not_judged(learnt: tuple[Calibrator, WordStatistics]) -> None:
    judge, _ = judge_of(learnt, seen=128)
    found = judge(torch.tensor([1, 1, 200]), torch.tensor([5, 200, 5]))
    assert found is not None
    assert found[0] > 0
    assert found[1:].tolist() == [0.0, 0.0]


def test_it_has_no_opinion_before_anything_is_known(learnt: tuple[Calibrator, WordStatistics]) -> None:
    some = torch.tensor([0])
    fresh: Any = (new_calibrator(False), WordStatistics(VOCABULARY))
    assert judge_of(fresh)[0](some, some) is None
    assert judge_of(learnt, seen=0)[0](some, some) is None
