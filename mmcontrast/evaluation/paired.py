"""Two models on the same pictures: differences with intervals, and whether chance alone would make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcontrast.errors import DataError
from mmcontrast.evaluation.resampling import (
    LEVEL,
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
    by_flips = {name: sign_flip_p(second.parts[name] - first.parts[name], flips=flips, seed=seed) for name in linear}
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


def sign_flip_p(parts: Floats, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of (n,) differences that add up to a metric's, were it chance which model is which on each picture.

    If the models are alike, then each picture's difference might as well have the other sign. The p is the share of
    sign patterns whose sum is at least as far from 0 as the one observed: of all 2^m of them where m pictures differ
    and that is no more than `flips`, and otherwise of `flips` random ones and the observed one. For metrics of hits
    and misses, one query a picture, it is McNemar's exact test.

    Args:
        parts: what each picture adds to the second model's metric, less what it adds to the first's.
        flips: random patterns.
        seed: of them.
    """
    moved = parts[np.abs(parts) > _SLACK * np.abs(parts).max(initial=0)]
    if not len(moved):
        return 1.0
    bound = abs(moved.sum()) - _SLACK * np.abs(moved).sum()
    if len(moved) < 60 and 2 ** len(moved) <= flips:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((1 - 2 * patterns) @ moved) >= bound).mean())
    generator, extreme, chunk = np.random.default_rng(seed), 1, chunk_of(len(moved))
    for start in range(0, flips, chunk):
        kept = generator.integers(2, size=(min(chunk, flips - start), len(moved)), dtype=np.int8)
        extreme += int((np.abs(2 * (kept @ moved) - moved.sum()) >= bound).sum())
    return extreme / (1 + flips)


def bootstrap_p(moved: Floats) -> float:
    """Two-sided p of (b,) resampled differences: twice the share on the other side of 0, at least 2 / (b + 1)."""
    below, above = 1 + int((moved <= 0).sum()), 1 + int((moved >= 0).sum())
    return min(1.0, 2 * min(below, above) / (1 + len(moved)))


def holm(values: Sequence[float]) -> list[float]:
    """p values after Holm's correction for their number, in their order."""
    found, worst = [1.0] * len(values), 0.0
    for place, at in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        worst = max(worst, (len(values) - place) * values[at])
        found[at] = min(1.0, worst)
    return found
