"""Word overlap of captions against a literal tf-idf cosine."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mmcontrast.negatives.words import WordStatistics

CAPTIONS = [[0, 5, 6, 7], [0, 5, 5, 8], [0, 6, 7, 9, 10], [0, 11], [0, 5, 6, 7]]


def tokens(captions: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded by 3, a token that is never meant."""
    width = max(map(len, captions))
    ids = torch.tensor([caption + [3] * (width - len(caption)) for caption in captions])
    mask = torch.tensor([[1] * len(caption) + [0] * (width - len(caption)) for caption in captions])
    return ids, mask


def literal(a: list[int], b: list[int], counted: list[list[int]]) -> float:
    def weights(caption: list[int]) -> dict[int, float]:
        total = len(counted)
        return {t: math.log((1 + total) / (1 + sum(t in other for other in counted))) for t in set(caption)}

    one, other = weights(a), weights(b)
    norm = math.sqrt(sum(w * w for w in one.values()) * sum(w * w for w in other.values()))
    return sum(w * other.get(t, 0.0) for t, w in one.items()) / norm if norm else 0.0


@pytest.fixture
def words() -> WordStatistics:
    statistics = WordStatistics(20)
    statistics.update(*tokens(CAPTIONS[:2]))
    statistics.update(*tokens(CAPTIONS[2:]))
    return statistics


def test_counts_are_captions_not_words(words: WordStatistics) -> None:
    assert words.captions == 5
    assert words.counts[[0, 5, 3]].tolist() == [5, 3, 0]  # a word twice in a caption counts once, padding never


def test_similarity_is_the_literal_cosine(words: WordStatistics) -> None:
    queries = [*CAPTIONS, [0, 5, 17], [0]]  # an unseen word, and nothing but the mark that all captions have
    found = words.similarity(tokens(queries), tokens(CAPTIONS))
    for i, a in enumerate(queries):
        expected = [literal(a, b, CAPTIONS) for b in CAPTIONS]
        assert found[i].tolist() == pytest.approx(expected, abs=1e-6)
    assert float(found[0, 4]) == pytest.approx(1.0)
    assert float(found[0, 3]) == 0.0  # the common mark weighs nothing
    assert not found[-1].any()


def test_pairwise_is_the_diagonal_whatever_the_widths(words: WordStatistics) -> None:
    a, b = [[0, 5, 6], [0, 7], [0, 9, 10]], [[0, 5], [0, 7, 8, 9, 10, 11], [0, 12]]
    pairwise = words.pairwise(tokens(a), tokens(b))
    torch.testing.assert_close(pairwise, words.similarity(tokens(a), tokens(b)).diagonal())
    assert pairwise.tolist() == pytest.approx([literal(x, y, CAPTIONS) for x, y in zip(a, b, strict=True)], abs=1e-6)


def test_order_of_words_and_padding_change_nothing(words: WordStatistics) -> None:
    ids, mask = tokens([[0, 5, 6, 9]])
    wide = torch.tensor([[3, 9, 6, 5, 0, 3]]), torch.tensor([[0, 1, 1, 1, 1, 0]])
    torch.testing.assert_close(
        words.similarity((ids, mask), tokens(CAPTIONS)), words.similarity(wide, tokens(CAPTIONS))
    )


def test_nothing_counted_means_nothing_shared() -> None:
    fresh = WordStatistics(20)
    assert not fresh.similarity(tokens(CAPTIONS), tokens(CAPTIONS)).any()


def test_state_survives(words: WordStatistics) -> None:
    resumed = WordStatistics(20)
    resumed.load_state_dict(copy.deepcopy(words.state_dict()))
    for statistics in (words, resumed):
        statistics.update(*tokens([[0, 5, 12]]))
    assert torch.equal(words.counts, resumed.counts)
    assert words.captions == resumed.captions == 6
