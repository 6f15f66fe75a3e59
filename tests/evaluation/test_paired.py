"""Paired tests of two models: against literal loops, McNemar's exact test, and for how often they cry wolf."""

from __future__ import annotations

import itertools
from functools import partial
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from mmcontrast.errors import DataError
from mmcontrast.evaluation.paired import BOOTSTRAP, SIGN_FLIPS, bootstrap_p, differences, holm, sign_flip_p
from mmcontrast.evaluation.resampling import Resampling, means, picture_counts, resampled

Floats = NDArray[np.float64]


def mcnemar(gained: int, lost: int) -> float:
    """Exact and two-sided: a fair coin for each picture that only one model gets right."""
    tosses = gained + lost
    tail = sum(comb(tosses, heads) for heads in range(min(gained, lost) + 1)) / 2**tosses
    return min(1.0, 2 * tail)


def hits(values: Floats, owner: NDArray[np.int64] | None = None) -> Resampling:
    own = np.arange(len(values)) if owner is None else owner
    return means({"acc1": (values, own)}, int(own.max()) + 1, ["acc1"])


def medians(ranks: Floats, counts: NDArray[np.int64]) -> dict[str, Floats]:
    return {"median": np.array([np.median(np.repeat(ranks, row)) for row in counts])}


def test_few_differences_are_tried_with_all_signs() -> None:
    generator = np.random.default_rng(0)
    parts = generator.normal(size=9)
    parts[4] = 0
    sums = [abs(sum(sign * part for sign, part in zip(signs, parts, strict=True)))
            for signs in itertools.product((1, -1), repeat=9)]  # fmt: skip
    expected = np.mean([total >= abs(parts.sum()) - 1e-12 for total in sums])
    assert sign_flip_p(parts[None]) == pytest.approx([expected])


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (7, 2), (3, 3), (0, 0), (6, 1)])
def test_of_hits_and_misses_it_is_mcnemar(gained: int, lost: int) -> None:
    parts = np.concatenate([np.ones(gained), -np.ones(lost), np.zeros(50)]) / 60
    assert sign_flip_p(parts[None]) == pytest.approx([mcnemar(gained, lost)])


def test_many_differences_are_tried_with_random_signs_and_agree_with_mcnemar() -> None:
    parts = np.concatenate([np.ones(60), -np.ones(38), np.zeros(200)])
    several = np.stack([parts, -3 * parts, np.ones(298)])
    assert sign_flip_p(several) == pytest.approx([mcnemar(60, 38), mcnemar(60, 38), 1 / 10_000], abs=0.006)
    assert sign_flip_p(several, seed=1) == sign_flip_p(several, seed=1)
    assert sign_flip_p(np.ones((1, 200)), flips=999) == [1 / 1000]


def test_the_interval_is_that_of_the_literal_loop() -> None:
    generator = np.random.default_rng(0)
    owner = np.sort(generator.integers(0, 12, 30))
    owner[0], owner[-1] = 0, 11
    one, other = ((generator.random(30) < share).astype(np.float64) for share in (0.4, 0.7))
    a, b = hits(one, owner), hits(other, owner)
    found = differences(a, b, (resampled(a, resamples=50, seed=3), resampled(b, resamples=50, seed=3)))["acc1"]
    (counts,) = picture_counts(12, 50, seed=3)
    literal = []
    for row in counts:
        drawn = [query for picture, times in enumerate(row) for _ in range(times)
                 for query in np.flatnonzero(owner == picture)]  # fmt: skip
        literal.append(other[drawn].mean() - one[drawn].mean())
    assert found.interval == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])), abs=1e-12)
    assert found.value == pytest.approx(other.mean() - one.mean())
    assert found.test == SIGN_FLIPS
    by_picture = [(other - one)[owner == picture].sum() for picture in range(12)]
    assert [found.p] == sign_flip_p(np.array([by_picture]))


def test_what_is_no_mean_is_tested_by_the_bootstrap() -> None:
    generator = np.random.default_rng(0)
    ranks = [generator.integers(1, 30, 80).astype(np.float64) for _ in range(2)]
    every = [Resampling(80, 80, partial(medians, own)) for own in ranks]
    drawn = [resampled(one, resamples=200, seed=1) for one in every]
    found = differences(every[0], every[1], (drawn[0], drawn[1]))["median"]
    assert found.test == BOOTSTRAP
    moved = drawn[1]["median"] - drawn[0]["median"]
    assert found.p == bootstrap_p(moved) == min(1.0, 2 * (1 + min((moved <= 0).sum(), (moved >= 0).sum())) / 201)


def test_a_bootstrap_without_a_draw_beyond_zero_takes_the_normal_tail() -> None:
    drawn = np.random.default_rng(0).normal(6, 1, 500)
    assert bootstrap_p(drawn) == pytest.approx(2e-9, rel=2)
    assert bootstrap_p(-drawn) == bootstrap_p(drawn)
    assert bootstrap_p(np.ones(499)) == 2 / 500


def test_twice_the_same_model() -> None:
    one = hits((np.arange(40) % 3 == 0).astype(np.float64))
    drawn = resampled(one, resamples=50)
    found = differences(one, one, (drawn, drawn))["acc1"]
    assert (found.value, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_other_pictures_are_no_pairs() -> None:
    with pytest.raises(DataError, match="same pictures"):
        differences(hits(np.ones(3)), hits(np.ones(4)), ({}, {}))


def test_how_often_it_cries_wolf() -> None:
    """Models alike on pictures of different difficulty, three captions each: p < 5 % in about 5 % of the trials."""
    generator = np.random.default_rng(0)
    trials, pictures, owner = 400, 60, np.repeat(np.arange(60), 3)
    alarms, naive, outside = 0, 0, 0
    for trial in range(trials):
        easy = np.repeat(generator.beta(0.5, 0.5, (2, pictures)), 3, axis=1)
        one, other = (generator.random(easy.shape) < easy).astype(np.float64)
        a, b = hits(one, owner), hits(other, owner)
        drawn = resampled(a, resamples=200, seed=trial), resampled(b, resamples=200, seed=trial)
        found = differences(a, b, drawn, flips=199, seed=trial)["acc1"]
        alarms += found.p < 0.05
        outside += not found.interval[0] <= 0 <= found.interval[1]
        naive += mcnemar(int((other > one).sum()), int((one > other).sum())) < 0.05
    assert 0.02 <= alarms / trials <= 0.075
    assert 0.02 <= outside / trials <= 0.09
    assert naive / trials > 0.12  # captions taken one by one: the test can tell


def test_it_sees_a_true_difference() -> None:
    generator = np.random.default_rng(0)
    one = (generator.random(300) < 0.5).astype(np.float64)
    other = np.where(generator.random(300) < 0.3, 1.0, one)
    a, b = hits(one), hits(other)
    found = differences(a, b, (resampled(a), resampled(b)))["acc1"]
    assert found.p < 0.001
    assert found.interval[0] > 0.05


def test_holm_is_that_of_the_book() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
