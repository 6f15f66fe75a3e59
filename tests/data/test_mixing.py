"""Shares of a mixture are exact over every stretch of it, not only on average."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmcontrast.data.mixing import Mixture, in_turn

PLACES = 300


def excess(mixture: Mixture, places: int) -> float:
    """By how many places any source is over or under its share in any stretch of the first ones, at most."""
    chosen = np.array([mixture.source(place) for place in range(places)])
    worst = 0.0
    for source, share in enumerate(mixture.shares):
        ahead = np.concatenate([[0], np.cumsum((chosen == source) - share)])  # of its share, after each place
        worst = max(worst, float(ahead.max() - ahead.min()))
    return worst


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(0, 2**40))
def test_every_stretch_has_its_shares(weights: list[float], seed: int) -> None:
    mixture = Mixture(weights, seed)
    assert sum(mixture.shares) == pytest.approx(1)
    assert excess(mixture, PLACES) < (1 if len(weights) <= 2 else 4) + 1e-9


def test_many_sources_are_mostly_off_by_less_than_two() -> None:
    weights = np.random.default_rng(0).exponential(size=(40, 6)) + 0.01
    worst = [excess(Mixture(some.tolist(), seed), PLACES) for seed, some in enumerate(weights)]
    assert np.mean(np.array(worst) < 2) > 0.9
    assert max(worst) < 3


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 99), st.integers(0, 10**12))
def test_counts_are_those_of_the_places(weights: list[float], seed: int, start: int) -> None:
    mixture = Mixture(weights, seed)
    chosen = [mixture.source(place) for place in range(start, start + 50)]
    before, after = mixture.counts(start), mixture.counts(start + 50)
    assert (sum(before), sum(after)) == (start, start + 50)
    assert [b - a for a, b in zip(before, after, strict=True)] == [chosen.count(s) for s in range(len(weights))]


def test_whole_numbers_of_places() -> None:
    """3 : 1 is one in each four, wherever one looks, and the seed says where it begins."""
    starts = set()
    for seed in range(40):
        chosen = [Mixture([3, 1], seed).source(place) for place in range(40)]
        assert all(sum(chosen[place : place + 4]) == 1 for place in range(37))
        starts.add(chosen.index(1))
    assert starts == {0, 1, 2, 3}
    assert Mixture([0.1, 0.2, 0.7], 0).counts(10**15) == Mixture([1, 2, 7], 0).counts(10**15)


def test_in_turn_gives_all_of_each() -> None:
    found = list(in_turn([iter("abcdefghi"), iter("XY"), iter("")], Mixture([1, 1, 1], 0).source))
    assert sorted(found) == sorted("abcdefghiXY")
    assert [letter for letter in found if letter.islower()] == list("abcdefghi")
    assert {"X", "Y"} <= set(found[:5])
    assert list(itertools.islice(in_turn([iter("ab")], Mixture([1], 0).source), 5)) == ["a", "b"]
