"""What the calibrator learns from: matches that are not trained as such, and a split by picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from making_batches import VOCABULARY, random_batch, seen
from torch import Tensor

from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.evidence import (
    HELD_OUT_ONE_IN,
    anchor_signals,
    evidence,
    held_out,
    linked_share,
    new_calibrator,
    sibling_signals,
)
from mmcontrast.negatives.known import MatchKeys, share_a_caption
from mmcontrast.negatives.signals import LINKED_SIGNALS, pair_signals, without_own
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.types import NO_KEY


def batch_with_siblings(n: int = 64, siblings: int = 10) -> tuple[GlobalBatch, WordStatistics]:
    features, batch, sibling_text = random_batch(n, siblings=siblings)
    words = WordStatistics(VOCABULARY)
    words.update(batch.input_ids, batch.attention_mask)
    return gather_batch(features, batch, sibling_text), words


def rows_of(signals: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in signals.tolist()}


def test_pictures_share_a_caption_in_a_literal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(0, 15, (12, 3), generator=generator)
    all_keys = MatchKeys(torch.arange(12), keys[:, 0], keys, torch.zeros(12, dtype=torch.long))
    found = share_a_caption(all_keys.take(torch.arange(5)), all_keys)
    for i in range(5):
        for j in range(12):
            assert bool(found[i, j]) == bool((set(keys[i].tolist()) & set(keys[j].tolist())) - {NO_KEY})


def test_linked_pairs_and_open_pairs_are_those_of_a_literal_loop() -> None:
    whole, words = batch_with_siblings(siblings=0)
    anchors = torch.tensor([3, 0, 8, 17, 21, 40])
    parts = {part.held_out: part for part in evidence(whole, words, anchors)}
    signals = anchor_signals(whole, words, anchors)
    keys = [set(row) - {NO_KEY} for row in whole.keys.caption_keys.tolist()]
    drawn = whole.keys.caption_key.tolist()
    expected: dict[bool, dict[str, list[list[float]]]] = {s: {"positive": [], "open": []} for s in (False, True)}
    for side, seen_from in enumerate(signals):
        for r, i in enumerate(anchors.tolist()):
            for j in range(len(whole)):
                known = drawn[j] in keys[i] if side == 0 else drawn[i] in keys[j]
                if i == j or known:
                    continue
                held = bool(held_out(whole.keys.index[i]))
                expected[held]["open"].append(seen_from[r, j].tolist())
                if keys[i] & keys[j]:
                    expected[held]["positive"].append(seen_from[r, j].tolist())
    for held, part in parts.items():
        assert sorted(part.positives.tolist()) == sorted(expected[held]["positive"])
        assert sorted(part.unlabelled.tolist()) == sorted(expected[held]["open"])
    assert len(parts[False].positives) > 0


def test_no_pair_that_is_known_or_trained_is_evidence() -> None:
    """The diagonal is memorised: an anchor's own pair must stand neither with the matches nor with the rest."""
    whole, words = batch_with_siblings(siblings=0)
    anchors = torch.arange(len(whole))
    own = rows_of(torch.cat([s[anchors, anchors] for s in anchor_signals(whole, words, anchors)]))
    for part in evidence(whole, words, anchors):
        assert not own & rows_of(part.positives)
        assert not own & rows_of(part.unlabelled)


def test_the_split_is_by_picture() -> None:
    """Risk "leakage through positives": pairs of one picture are on one side, whatever batch and caption."""
    pictures = torch.arange(4000)
    held = held_out(pictures)
    assert torch.equal(held, held_out(pictures.clone()))
    assert float(held.float().mean()) == pytest.approx(1 / HELD_OUT_ONE_IN, rel=0.05)
    for step in (2, 4, 8):  # nor may it hang on which rows keep a caption from training, one in eight
        assert float(held[::step].float().mean()) == pytest.approx(1 / HELD_OUT_ONE_IN, rel=0.2)
    whole, words = batch_with_siblings()
    assert whole.siblings is not None
    for anchor in range(40):
        sizes = {p.held_out: len(p.unlabelled) for p in evidence(whole, words, torch.tensor([anchor]))}
        side = bool(held_out(whole.keys.index[anchor]))
        assert sizes[side] > 0
        assert sizes[not side] == 0
    parts = {p.held_out: p for p in evidence(whole, words, torch.arange(0))}
    of_held = held_out(whole.keys.index[whole.siblings.rows])
    assert {side: len(p.positives) for side, p in parts.items()} == {
        False: 2 * int((~of_held).sum()),  # seen from the picture and from the caption
        True: 2 * int(of_held.sum()),
    }


def test_siblings_only_fill_up_what_linked_pairs_leave() -> None:
    whole, words = batch_with_siblings()
    alone = {p.held_out: len(p.positives) for p in evidence(whole, words, torch.arange(0))}
    few = next(iter(evidence(whole, words, torch.tensor([3, 5]))))
    linked = len(next(iter(evidence(batch_with_siblings(siblings=0)[0], words, torch.tensor([3, 5])))).positives)
    assert 0 < linked < alone[False]
    assert len(few.positives) == alone[False]
    many = next(iter(evidence(whole, words, torch.arange(64))))
    assert len(many.positives) > alone[False]
    assert whole.siblings is not None
    further = rows_of(sibling_signals(whole, words, whole.siblings).flatten(0, 1))
    assert not further & rows_of(many.positives)


def test_linked_evidence_is_of_two_pictures_only() -> None:
    """It tells how alike pictures are, which of siblings would only say "same photo"."""
    whole, words = batch_with_siblings()
    anchors = torch.arange(len(whole))
    alone = list(evidence(replace(whole, siblings=None), words, anchors, linked=True))
    beside = list(evidence(whole, words, anchors, linked=True))
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one.positives, other.positives)
        assert one.positives.shape[1] == one.unlabelled.shape[1] == len(LINKED_SIGNALS)
    assert new_calibrator(True).linked
    assert not new_calibrator(False).linked


def test_share_of_linked_pairs_in_a_literal_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(1, 15, (12, 3), generator=generator)
    of_all = MatchKeys(torch.arange(12), keys[:, 0], keys, torch.full((12,), NO_KEY))
    linked = 0
    for i in range(12):
        for j in range(12):
            captions, others = set(keys[i].tolist()), set(keys[j].tolist())
            linked += i != j and bool(captions & others) and keys[j, 0].item() not in captions
    assert linked_share(of_all) == pytest.approx(linked / 144)
    assert linked > 0


def test_signals_of_siblings_are_those_of_pairs_beside_the_batch() -> None:
    whole, words = batch_with_siblings(20)
    siblings = whole.siblings
    assert siblings is not None
    found = sibling_signals(whole, words, siblings)
    for s, i in enumerate(siblings.rows.tolist()):
        ids, mask = siblings.input_ids[s : s + 1], siblings.attention_mask[s : s + 1]
        overlap = words.similarity((ids, mask), (whole.input_ids[i : i + 1], whole.attention_mask[i : i + 1]))
        cross, same = siblings.text[s] @ whole.image[i], siblings.text[s] @ whole.text[i]
        row = torch.tensor([i])
        for side, (anchor, words_of) in enumerate(
            ((whole.image[i], whole.text[i]), (siblings.text[s], siblings.text[s]))
        ):
            others = whole.text if side == 0 else whole.image
            expected = pair_signals(
                [
                    (cross[None, None], without_own((anchor @ others.T)[None], row)),
                    (same[None, None], without_own((words_of @ whole.text.T)[None], row)),
                ],
                overlap,
            )
            torch.testing.assert_close(found[s, side], expected[0, 0])


def test_a_batch_whose_siblings_are_all_absent() -> None:
    features, batch, sibling_text = random_batch(8, siblings=1)
    words = WordStatistics(VOCABULARY)
    whole = gather_batch(features, batch, sibling_text)
    assert whole.siblings is not None
    assert len(whole.siblings.rows) == 0
    with_none = list(evidence(whole, words, torch.arange(8)))
    without = list(evidence(seen(batch, features), words, torch.arange(8)))
    for one, other in zip(with_none, without, strict=True):
        assert torch.equal(one.positives, other.positives)
        assert torch.equal(one.unlabelled, other.unlabelled)
