"""How far the scores would move with other pictures: bootstrap intervals, by resampling whole pictures.

A picture is drawn with all its captions, since captions of one picture are no independent witnesses. What is drawn
are the queries; the gallery stays as it is, so that nothing has to be ranked again, and an interval speaks of other
queries to this gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.retrieval import RECALL_KS
from mmcontrast.evaluation.tasks import Evaluation

LEVEL = 0.95
RESAMPLES = 1000
Intervals = dict[str, tuple[float, float] | None]
"""Metric name to (low, high); None where the metric is not defined."""

_Floats = NDArray[np.float64]
_Counts = NDArray[np.int64]
_Statistics = dict[str, _Floats]
_ELEMENTS = 1 << 22  # of one chunk of counts


def evaluation_intervals(
    evaluation: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Intervals]:
    """{task: {metric: (low, high)}} of all results of an evaluation, the same metrics as in `evaluation.results`."""
    found: dict[str, Intervals] = {}
    if evaluation.rankings is not None:
        names = evaluation.results["retrieval"]
        ks = [int(name.partition("@")[2]) for name in names if name.startswith("image_to_text_recall@")]
        found["retrieval"] = retrieval_intervals(
            *evaluation.rankings, evaluation.data.text_images, ks=ks, resamples=resamples, seed=seed, level=level
        )
    if (zero_shot := evaluation.zero_shot) is not None:
        found["zero_shot"] = zero_shot_intervals(
            zero_shot.ranks,
            zero_shot.labels,
            zero_shot.predictions,
            len(zero_shot.class_names),
            resamples=resamples,
            seed=seed,
            level=level,
        )
    return found


def retrieval_intervals(
    by_image: Ranking,
    by_text: Ranking,
    text_images: Tensor,
    *,
    ks: Sequence[int] = RECALL_KS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Intervals:
    """Intervals of what `retrieval_metrics` gives.

    Args:
        by_image: of n pictures.
        by_text: of m captions.
        text_images: (m,) int64, the picture (0..n-1) of each caption.
        ks: of the recalls.
        resamples: how often n pictures are drawn, with replacement.
        seed: of the draws; the same seed gives the same intervals.
        level: share of the resamples within an interval.
    """
    owner = text_images.numpy()
    sides = {
        "image_to_text": _side(by_image, np.arange(len(by_image.ranks)), len(by_image.ranks), ks, len(by_text.ranks)),
        "text_to_image": _side(by_text, owner, len(by_image.ranks), ks, len(by_image.ranks)),
    }

    def statistics(counts: _Counts) -> _Statistics:
        values = {f"{way}_{name}": value for way, side in sides.items() for name, value in side(counts).items()}
        recalls = [value for name, value in values.items() if "_recall@" in name]
        for name in ("map@r", "r_precision"):
            values[name] = (values[f"image_to_text_{name}"] + values[f"text_to_image_{name}"]) / 2
        if recalls:
            values["mean_recall"] = np.mean(recalls, axis=0)
        return values

    found = _intervals(statistics, len(by_image.ranks), len(owner), resamples, seed, level)
    undefined = {f"{way}_recall@{k}" for way in sides for k in ks} | {"mean_recall"}
    return found | dict.fromkeys(sorted(undefined - found.keys()))


def zero_shot_intervals(
    ranks: Tensor,
    labels: Tensor,
    predictions: Tensor,
    num_classes: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Intervals:
    """Intervals of what `classify` gives; (n,) ranks of the true class, labels and predictions, all int64.

    A class that no picture of a resample has counts in no mean of that resample.
    """
    hits = {1: (ranks <= 1).double().numpy(), 5: (ranks <= 5).double().numpy()}
    order = labels.argsort(stable=True).numpy()
    sorted_labels = labels.numpy()[order]
    starts = np.flatnonzero(np.diff(sorted_labels, prepend=-1))
    right = (predictions == labels).numpy()[order]

    def statistics(counts: _Counts) -> _Statistics:
        mine = counts[:, order]
        of_class = np.add.reduceat(mine, starts, axis=1)  # (b, classes that have pictures)
        right_of_class = np.add.reduceat(mine * right, starts, axis=1)
        present = of_class > 0
        recalls = np.where(present, right_of_class / np.maximum(of_class, 1), 0.0)
        values = {"acc1": counts @ hits[1] / len(right)}
        if num_classes >= 5:
            values["acc5"] = counts @ hits[5] / len(right)
        return values | {"mean_per_class_recall": recalls.sum(axis=1) / present.sum(axis=1)}

    found = _intervals(statistics, len(right), len(right), resamples, seed, level)
    return found if num_classes >= 5 else found | {"acc5": None}


def picture_counts(pictures: int, resamples: int, seed: int, chunk: int | None = None) -> Iterator[_Counts]:
    """How often each picture was drawn: (b, pictures) counts, each row adding up to `pictures`, b <= chunk at a time.

    What is drawn does not depend on `chunk`.
    """
    generator = np.random.default_rng(seed)
    chunk = chunk or resamples
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(pictures, size=(rows, pictures)) + np.arange(rows)[:, None] * pictures
        yield np.bincount(drawn.ravel(), minlength=rows * pictures).reshape(rows, pictures)


def _side(
    ranking: Ranking, owner: _Counts, pictures: int, ks: Sequence[int], gallery: int
) -> Callable[[_Counts], _Statistics]:
    """The metrics of one direction, from (b, pictures) counts."""
    ranks = ranking.ranks.double().numpy()
    columns = {f"recall@{k}": (ranks <= k).astype(np.float64) for k in ks if k <= gallery}
    columns |= {"mean_rank": ranks, "map@r": ranking.precision.numpy(), "r_precision": ranking.r_precision.numpy()}
    sums = np.stack([np.bincount(owner, column, pictures) for column in columns.values()], axis=1)
    sizes = np.bincount(owner, minlength=pictures)
    order = ranks.argsort(kind="stable")

    def statistics(counts: _Counts) -> _Statistics:
        queries = counts @ sizes
        with np.errstate(invalid="ignore"):  # no query drawn at all: NaN, which counts in no interval
            means = counts @ sums / queries[:, None]
        values = dict(zip(columns, means.T, strict=True))
        return values | {"median_rank": _medians(ranks[order], counts[:, owner[order]])}

    return statistics


def _medians(ascending: _Floats, weights: _Counts) -> _Floats:
    """(b,) medians of (n,) ascending values that occur (b, n) times; the mean of the middle two of an even number."""
    upto = weights.cumsum(axis=1)
    total = upto[:, -1:]
    low, high = ((upto <= middle).sum(axis=1) for middle in ((total - 1) // 2, total // 2))
    last = len(ascending) - 1
    medians: _Floats = (ascending[low.clip(max=last)] + ascending[high.clip(max=last)]) / 2
    return np.where(total[:, 0] > 0, medians, np.nan)


def _intervals(
    statistics: Callable[[_Counts], _Statistics], pictures: int, queries: int, resamples: int, seed: int, level: float
) -> Intervals:
    chunk = max(1, _ELEMENTS // max(pictures, queries))
    parts = [statistics(counts) for counts in picture_counts(pictures, resamples, seed, chunk)]
    tail = (1 - level) / 2
    found: Intervals = {}
    for name in parts[0]:
        low, high = np.nanquantile(np.concatenate([part[name] for part in parts]), [tail, 1 - tail]).tolist()
        if not name.endswith("rank") and low == high:
            low, high = _of_the_unanimous(low, pictures, tail)
        found[name] = (low, high)
    return found


def _of_the_unanimous(share: float, pictures: int, tail: float) -> tuple[float, float]:
    """Where all pictures succeed, or all fail, resampling sees no spread: the exact binomial bound is taken."""
    spread = 1 - tail ** (1 / pictures)
    if share == 1:
        return 1 - spread, 1.0
    return (0.0, spread) if share == 0 else (share, share)
