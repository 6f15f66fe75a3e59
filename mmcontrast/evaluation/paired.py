"""Two models on the same pictures: differences with intervals, and whether chance alone would make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcontrast.errors import DataError
from mmcontrast.evaluation.resampling import (
    LEVEL,
    Counts,
    Floats,
    Resampling,
    Statistics,
    chunk_of,
    observed,
)

FLIPS = 9999
SIGN_FLIPS, BOOTSTRAP = "sign flips", "bootstrap"
_SLACK = 1e-9  # of what counts as equal, in units of the largest


@dataclass(frozen=True)
class Difference:
    """Of a metric of the second model against that of the first.

    Attributes:
        value: second - first.
        interval: 95 % bootstrap interval, both models drawn the same pictures.
        p: two-sided.
        test: SIGN_FLIPS for metrics that are means over pictures, BOOTSTRAP for the others.
        adjusted: p after `holm`, or as it is.
    """

    value: float
    interval: tuple[float, float]
    p: float
    test: str
    adjusted: float


def differences(
    first: Resampling,
    second: Resampling,
    drawn: tuple[Statistics, Statistics],
    *,
    flips: int = FLIPS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """The paired differences of all metrics that both have.

    Args:
        first, second: of one task on the same n pictures.
        drawn: what `resampled` gives of them, with the same seed.
        flips: see `sign_flip_p`.
        seed: of the flips.
        level: share of the resamples within an interval.

    Raises:
        DataError: they are of different numbers of pictures.
    """
    if first.pictures != second.pictures:
        raise DataError(f"models are compared on the same pictures: these are {first.pictures} and {second.pictures}")
    here, there = observed(first), observed(second)
    names = [name for name in here if name in there]
    linear = [name for name in names if name in first.parts and name in second.parts]
    by_flips: dict[str, float] = {}
    if linear:
        parts = np.stack([second.parts[name] - first.parts[name] for name in linear])
        by_flips = dict(zip(linear, sign_flip_p(parts, flips=flips, seed=seed), strict=True))
    found: dict[str, Difference] = {}
    for name in names:
        moved = drawn[1][name] - drawn[0][name]
        moved = moved[~np.isnan(moved)]
        if not len(moved):
            continue
        low, high = np.quantile(moved, [(1 - level) / 2, (1 + level) / 2]).tolist()
        p, test = (by_flips[name], SIGN_FLIPS) if name in by_flips else (bootstrap_p(moved), BOOTSTRAP)
        found[name] = Difference(there[name] - here[name], (low, high), p, test, p)
    return found


def sign_flip_p(parts: Floats, *, flips: int = FLIPS, seed: int = 0) -> list[float]:
    """Two-sided p of differences that add up over pictures, were it chance which model is which on each picture.

    If the models are alike, then each picture's difference might as well have the other sign. The p is the share of
    sign patterns whose sum is at least as far from 0 as the one observed: of all 2^m of them where m pictures differ
    and that is no more than `flips`, and otherwise of `flips` random ones and the observed one. For metrics of hits
    and misses, one query a picture, it is McNemar's exact test.

    Args:
        parts: (k, n), what each picture adds to each metric of the second model, less what it adds to the first's.
        flips: random patterns, the same for all metrics.
        seed: of them.

    Returns:
        k.
    """
    found = [1.0] * len(parts)
    many = []
    for place, row in enumerate(parts):
        moved = row[np.abs(row) > _SLACK * np.abs(row).max(initial=0)]
        if len(moved) < 60 and 2 ** len(moved) <= flips:
            patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
            found[place] = float((np.abs((1 - 2 * patterns) @ moved) >= _bound(moved)).mean())
        else:
            many.append(place)
    if many:
        for place, extreme in zip(many, _extremes(parts[many], flips, seed).tolist(), strict=True):
            found[place] = (1 + extreme) / (1 + flips)
    return found


def _bound(moved: Floats) -> Floats:
    """From where on a sum of (..., n) differences counts as far from 0 as that of all of them, rounding aside."""
    bound: Floats = np.abs(moved.sum(axis=-1)) - _SLACK * np.abs(moved).sum(axis=-1)
    return bound


def _extremes(parts: Floats, flips: int, seed: int) -> Counts:
    """How many of so many random sign patterns reach each bound: (k, n) differences to (k,)."""
    generator, chunk = np.random.default_rng(seed), chunk_of(parts.shape[1])
    total, bounds = parts.sum(axis=1), _bound(parts)
    found = np.zeros(len(parts), dtype=np.int64)
    for start in range(0, flips, chunk):
        kept = generator.integers(2, size=(min(chunk, flips - start), parts.shape[1]), dtype=np.int8)
        sums = 2 * (kept.astype(np.float64) @ parts.T) - total  # (flips, k)
        found += (np.abs(sums) >= bounds).sum(axis=0)
    return found


def bootstrap_p(moved: Floats) -> float:
    """Two-sided p of (b,) resampled differences: twice the share on the other side of 0.

    Where none of them is, so that b resamples cannot say how small it is, the tail of a normal distribution with their
    mean and deviation, but no more than 2 / (b + 1).
    """
    below, above = 1 + int((moved <= 0).sum()), 1 + int((moved >= 0).sum())
    p = min(1.0, 2 * min(below, above) / (1 + len(moved)))
    spread = float(moved.std())
    if min(below, above) > 1 or spread == 0:
        return p
    return min(p, math.erfc(abs(float(moved.mean())) / spread / math.sqrt(2)))


def holm(values: Sequence[float]) -> list[float]:
    """p values after Holm's correction for their number, in their order."""
    found, worst = [1.0] * len(values), 0.0
    for place, at in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        worst = max(worst, (len(values) - place) * values[at])
        found[at] = min(1.0, worst)
    return found
