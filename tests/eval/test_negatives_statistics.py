"""Intervals of paired differences against slow literal computation."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from negatives_statistics import (
    bootstrap_means,
    deviation,
    expanded_tail,
    paired_interval,
    recovered_share,
    t_quantile,
)
from scipy import stats

DIFFERENCES = [0.031, 0.012, 0.055, -0.004]


def test_bootstrap_means_are_those_of_all_resamples() -> None:
    every = sorted(statistics.mean(draw) for draw in itertools.product(DIFFERENCES, repeat=4))
    drawn = np.sort(bootstrap_means(DIFFERENCES, resamples=40_000))
    for share in (0.025, 0.2, 0.5, 0.8, 0.975):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(every, share), abs=1.5e-3)
    assert drawn[0] == pytest.approx(min(DIFFERENCES))
    assert drawn[-1] == pytest.approx(max(DIFFERENCES))


def test_bootstrap_is_the_same_every_time() -> None:
    assert np.array_equal(bootstrap_means(DIFFERENCES), bootstrap_means(DIFFERENCES))


@pytest.mark.parametrize(("freedom", "tolerance"), [(3, 0.01), (4, 0.003), (9, 3e-4), (30, 1e-5)])
def test_t_quantile(freedom: int, tolerance: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=tolerance)


def test_expanded_tail_is_hesterbergs() -> None:
    n = 8
    literal = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    assert expanded_tail(n) == pytest.approx(literal, rel=0.01)
    assert expanded_tail(1000) == pytest.approx(0.025, rel=0.02)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, trials, covered, plainly_covered = np.random.default_rng(0), 400, 0, 0
    for _ in range(trials):
        differences = rng.normal(0.02, 0.03, size=5)
        low, high = paired_interval(differences.tolist()) or (0.0, 0.0)
        covered += low <= 0.02 <= high
        plain = np.quantile(bootstrap_means(differences.tolist()), [0.025, 0.975])
        plainly_covered += plain[0] <= 0.02 <= plain[1]
    assert 0.91 <= covered / trials <= 0.98
    assert plainly_covered / trials < 0.90  # why the percentiles are moved outward


def test_interval_needs_two_seeds() -> None:
    assert paired_interval([0.1]) is None
    assert paired_interval([]) is None
    assert deviation([0.1]) is None


def test_interval_of_nothing_is_nothing() -> None:
    assert paired_interval([0.0, 0.0, 0.0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("gain", "oracle", "interval", "expected"),
    [
        (0.03, 0.06, (0.01, 0.1), 0.5),
        (-0.03, 0.06, (0.01, 0.1), -0.5),
        (0.03, 0.06, (-0.01, 0.1), None),  # no headroom that could be told from noise
        (0.03, -0.06, (-0.1, -0.01), None),  # the oracle loses
        (0.03, 0.06, None, None),
    ],
)
def test_recovered_share(
    gain: float, oracle: float, interval: tuple[float, float] | None, expected: float | None
) -> None:
    assert recovered_share(gain, oracle, interval) == expected
