"""What the metrics of a task would be had other pictures been drawn: the ground of intervals and of paired tests.

A picture is drawn with all its captions, since captions of one picture are no independent witnesses. What is drawn
are the queries; the gallery, the train pictures of a probe and a fitted temperature stay as they are, so that nothing
has to be ranked or fitted again, and an interval speaks of other queries to this gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Statistics = dict[str, Floats]
Intervals = dict[str, tuple[float, float] | None]
"""Metric name to (low, high); None where the metric, or an interval of it, is not defined."""

LEVEL = 0.95
RESAMPLES = 1000
_ELEMENTS = 1 << 22  # of one chunk of counts


@dataclass(frozen=True)
class Resampling:
    """How metrics of a task hang on which of n pictures are drawn.

    Attributes:
        pictures: n, those that take part in the task.
        width: numbers that one draw costs at most; it bounds the memory.
        statistics: (b, n) counts, how often each picture is drawn, to the (b,) values of each metric.
        parts: what each of the n pictures adds to a metric, (n,), where the metric is such a sum and how much a picture
            weighs depends on the data alone, and not on the model.
        witnesses: of the metrics that are shares of successes, how many pictures speak in it.
        biased: metrics, never below 0, that are too high in few pictures, and in a resample once more.
    """

    pictures: int
    width: int
    statistics: Callable[[Counts], Statistics]
    parts: dict[str, Floats] = field(default_factory=dict)
    witnesses: dict[str, int] = field(default_factory=dict)
    biased: frozenset[str] = frozenset()


def means(columns: Mapping[str, tuple[Floats, Counts]], pictures: int, shares: Sequence[str] = ()) -> Resampling:
    """Metrics that are means over queries.

    Args:
        columns: of each metric the (q,) values and the (q,) pictures (0..n-1) of its own queries.
        pictures: n.
        shares: those of the metrics that are 1 where all succeed and 0 where none does.
    """
    sums = np.stack([np.bincount(owner, values, pictures) for values, owner in columns.values()], axis=1)
    sizes = np.stack([np.bincount(owner, minlength=pictures) for _, owner in columns.values()], axis=1)  # (n, metrics)

    def statistics(counts: Counts) -> Statistics:
        weights = counts.astype(np.float64)
        with np.errstate(invalid="ignore"):  # no query drawn at all: NaN, which counts in no interval
            found = (weights @ sums) / (weights @ sizes)
        return dict(zip(columns, found.T, strict=True))

    parts = dict(zip(columns, (sums / sizes.sum(axis=0)).T, strict=True))
    speaking = dict(zip(columns, (sizes > 0).sum(axis=0).tolist(), strict=True))
    witnesses = {name: speaking[name] for name in shares}
    return Resampling(pictures, max(pictures, len(columns)), statistics, parts, witnesses)


def joined(every: Sequence[Resampling]) -> Resampling:
    """Resamplings of the same pictures as one; each has metrics of its own."""

    def statistics(counts: Counts) -> Statistics:
        return {name: value for one in every for name, value in one.statistics(counts).items()}

    return Resampling(
        every[0].pictures,
        max(one.width for one in every),
        statistics,
        {name: part for one in every for name, part in one.parts.items()},
        {name: number for one in every for name, number in one.witnesses.items()},
        frozenset(name for one in every for name in one.biased),
    )


def with_mean(one: Resampling, name: str, of: Sequence[str]) -> Resampling:
    """With one more metric, the mean of others."""

    def statistics(counts: Counts) -> Statistics:
        found = one.statistics(counts)
        return found | {name: np.mean([found[other] for other in of], axis=0)}

    parts, witnesses = dict(one.parts), dict(one.witnesses)
    if all(other in parts for other in of):
        parts[name] = np.mean([parts[other] for other in of], axis=0)
    if all(other in witnesses for other in of):
        witnesses[name] = min(witnesses[other] for other in of)
    return replace(one, statistics=statistics, parts=parts, witnesses=witnesses)


def picture_counts(pictures: int, resamples: int, seed: int, chunk: int | None = None) -> Iterator[Counts]:
    """How often each picture was drawn: (b, pictures) counts, each row adding up to `pictures`, b <= chunk at a time.

    What is drawn does not depend on `chunk`.
    """
    generator = np.random.default_rng(seed)
    chunk = chunk or resamples
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(pictures, size=(rows, pictures)) + np.arange(rows)[:, None] * pictures
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures)


def chunk_of(width: int) -> int:
    """How many draws of `width` numbers are computed at a time."""
    return max(1, _ELEMENTS // width)


def resampled(one: Resampling, *, resamples: int = RESAMPLES, seed: int = 0) -> Statistics:
    """The (resamples,) values of each metric, NaN where no query was drawn; the same seed draws the same pictures."""
    counts = picture_counts(one.pictures, resamples, seed, chunk_of(one.width))
    parts = [one.statistics(part) for part in counts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def observed(one: Resampling) -> dict[str, float]:
    """The metrics with every picture drawn once: what was measured."""
    found = one.statistics(np.ones((1, one.pictures), dtype=np.int64))
    return {name: value.item() for name, value in found.items()}


def percentiles(one: Resampling, values: Statistics, *, level: float = LEVEL) -> Intervals:
    """Bootstrap intervals by percentiles, those of biased metrics mirrored at the value that was measured.

    Mirrored, since what resampling adds to such a metric is about what chance had added to it before. Errors of
    calibration need it: of 400 pictures whose true error is 0.05, the plain interval holds the truth in 20 of 100
    cases, the mirrored one in 91. Where the true error is 0 it still is too high in about half of all cases.

    Args:
        one: what was resampled.
        values: what `resampled` gave.
        level: share of the resamples within an interval.
    """
    tail = (1 - level) / 2
    found = {name: _interval(drawn, one.witnesses.get(name), tail) for name, drawn in values.items()}
    if one.biased:
        measured = observed(one)
        found |= {name: _mirrored(found[name], measured[name]) for name in one.biased & found.keys()}
    return found


def _interval(values: Floats, witnesses: int | None, tail: float) -> tuple[float, float] | None:
    if np.isnan(values).all():
        return None
    low, high = np.nanquantile(values, [tail, 1 - tail]).tolist()
    if low == high and witnesses is not None:
        return _of_the_unanimous(low, witnesses, tail)
    return low, high


def _mirrored(ends: tuple[float, float] | None, measured: float) -> tuple[float, float] | None:
    return None if ends is None else (max(0.0, 2 * measured - ends[1]), max(measured, 2 * measured - ends[0]))


def _of_the_unanimous(share: float, pictures: int, tail: float) -> tuple[float, float]:
    """Where all pictures succeed, or all fail, resampling sees no spread: the exact binomial bound is taken."""
    spread = 1 - tail ** (1 / pictures)
    if share == 1:
        return 1 - spread, 1.0
    return (0.0, spread) if share == 0 else (share, share)
