"""Signals of pairs: what they are, and that they tell nobody who a pair is."""

from __future__ import annotations

import math

import pytest
import torch
from making_batches import VOCABULARY, permuted, random_batch, seen

from mmcontrast.negatives.evidence import anchor_signals
from mmcontrast.negatives.signals import LINKED_SIGNALS, SIGNALS, pair_signals, upper_rank, without_own
from mmcontrast.negatives.words import WordStatistics


@pytest.mark.parametrize("names", [SIGNALS, LINKED_SIGNALS], ids=["siblings", "linked"])
def test_signals_are_what_their_names_say(names: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = [torch.rand(2, 3, generator=generator) for _ in range(len(names) // 2)]
    words = torch.rand(2, 3, generator=generator)
    references = [torch.rand(2, 8, generator=generator).sort(dim=1).values for _ in cosines]
    signals = dict(
        zip(names, pair_signals(list(zip(cosines, references, strict=True)), words).unbind(dim=-1), strict=True)
    )
    assert torch.equal(signals["words"], words)
    for name, values, reference in zip(names, cosines, references, strict=False):
        assert torch.equal(signals[name], values)
        for i in range(2):
            for j in range(3):
                above = sum(float(r) > float(values[i, j]) for r in reference[i])
                rank = math.log(8 / (above + 1)) if above < 8 else 0.0
                assert float(signals[f"{name}_rank"][i, j]) == pytest.approx(rank, abs=1e-6)


def test_signals_of_a_batch_in_a_literal_loop() -> None:
    features, batch, _ = random_batch(8)
    whole = seen(batch, features)
    words = WordStatistics(VOCABULARY)
    words.update(batch.input_ids, batch.attention_mask)
    rows = torch.tensor([5, 2])
    views = anchor_signals(whole, words, rows, linked=True)
    picture, caption = whole.image, whole.text
    for side, view in enumerate(views):
        found = dict(zip(LINKED_SIGNALS, view.unbind(dim=-1), strict=True))
        for r, i in enumerate(rows.tolist()):
            for j in range(8):
                there, back = float(picture[i] @ caption[j]), float(caption[i] @ picture[j])
                expected = {"cross": (there, back)[side], "reverse": (back, there)[side]}
                expected |= {"text": float(caption[i] @ caption[j]), "pictures": float(picture[i] @ picture[j])}
                for name, value in expected.items():
                    assert float(found[name][r, j]) == pytest.approx(value, abs=1e-6)
        plain = anchor_signals(whole, words, rows)[side]
        assert torch.equal(plain, torch.stack([found[name] for name in SIGNALS], dim=-1))


def test_a_candidate_and_a_pair_beside_them_are_ranked_alike() -> None:
    """Reserved captions stand beside the batch: their rank must not betray that. Neither must the own column's."""
    similarity = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.7]])
    reference = without_own(similarity, torch.tensor([0]))
    ranks = upper_rank(similarity, reference)
    assert reference.tolist() == [pytest.approx([-math.inf, 0.1, 0.3, 0.5, 0.7])]
    for place, greater in ((1, 3), (2, 1), (3, 2), (4, 0)):
        value = float(similarity[0, place])
        beside = upper_rank(torch.tensor([[value + 1e-4]]), reference)
        assert float(ranks[0, place]) == pytest.approx(float(beside)) == pytest.approx(math.log(5 / (greater + 1)))
    for own, greater in ((0.8, 0), (0.6, 1), (0.4, 2), (0.2, 3)):  # the own column, wherever it stands
        rank = upper_rank(torch.tensor([[own]]), reference)
        assert float(rank) == pytest.approx(math.log(5 / (greater + 1)))


def test_the_last_bit_does_not_decide_a_rank() -> None:
    reference = torch.tensor([[0.1, 0.5, 0.5, 0.9]])
    values = torch.tensor([[0.5, 0.5 - 1e-7, 0.5 + 1e-7]])
    assert len(upper_rank(values, reference).unique()) == 1
    assert float(upper_rank(values - 1e-3, reference)[0, 0]) < float(upper_rank(values, reference)[0, 0])


def test_the_own_column_is_no_rival_of_the_others() -> None:
    similarity = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    own = torch.arange(4)
    ranks = upper_rank(similarity, without_own(similarity, own))
    changed = similarity.clone()
    changed[own, own] = 5.0
    again = upper_rank(changed, without_own(changed, own))
    others = torch.arange(9) != own[:, None]
    assert torch.equal(ranks[others], again[others])


@pytest.mark.parametrize("linked", [False, True])
def test_permuting_the_batch_permutes_the_signals(linked: bool) -> None:
    """Risk "leakage": no place, no index, no diagonal in the signals."""
    features, batch, _ = random_batch(12)
    whole = seen(batch, features)
    words = WordStatistics(VOCABULARY)
    words.update(batch.input_ids, batch.attention_mask)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    for before, after in zip(
        anchor_signals(whole, words, torch.arange(12), linked=linked),
        anchor_signals(permuted(whole, order), words, torch.arange(12), linked=linked),
        strict=True,
    ):
        torch.testing.assert_close(before[order][:, order], after)


def test_who_a_pair_is_changes_no_signal() -> None:
    features, batch, _ = random_batch(12)
    words = WordStatistics(VOCABULARY)
    words.update(batch.input_ids, batch.attention_mask)
    _, others, _ = random_batch(12, first_index=500)
    others.input_ids, others.attention_mask, others.label = batch.input_ids, batch.attention_mask, batch.label + 1
    one, other = (anchor_signals(seen(b, features), words, torch.arange(12)) for b in (batch, others))
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_twin_of_the_true_pair_cannot_be_told_from_it() -> None:
    """A second copy of the anchor's own pair in the batch has the very signals of the own column."""
    features, batch, _ = random_batch(12)
    image, text = features.image.detach().clone(), features.text.detach().clone()
    image[7], text[7] = image[2], text[2]
    batch.input_ids[7], batch.attention_mask[7] = batch.input_ids[2], batch.attention_mask[2]
    whole = seen(batch, features, image=image, text=text)
    words = WordStatistics(VOCABULARY)
    words.update(batch.input_ids, batch.attention_mask)
    for signals in anchor_signals(whole, words, torch.tensor([2])):
        torch.testing.assert_close(signals[0, 2], signals[0, 7])
