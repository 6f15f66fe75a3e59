"""Resampling of metrics that are no plain means: recall and F1 over classes, average precision, calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmcontrast.evaluation.calibration import BINS
from mmcontrast.evaluation.resampling import Counts, Floats, Resampling, Statistics

MACRO = ("macro_precision", "macro_recall", "macro_f1")


def classes_resampling(labels: Counts, predictions: Counts, owner: Counts, pictures: int, classes: int) -> Resampling:
    """`mean_per_class_recall`, and the metrics of MACRO.

    A class that no picture of a resample has counts in the mean of recalls as it is in all pictures: were it left out,
    rare classes would move the resamples away from the value. For the macro means it counts where it was predicted.

    Args:
        labels: (k,) in 0..c-1.
        predictions: (k,) in 0..c-1.
        owner: (k,), the picture (0..n-1) of each.
        pictures: n.
        classes: c.
    """
    right = labels == predictions
    truly, supposed = _Grouped(labels, owner, classes), _Grouped(predictions, owner, classes)
    rightly = _Grouped(labels[right], owner[right], classes)
    sizes = np.bincount(labels, minlength=classes)
    seen = sizes > 0
    whole = np.bincount(labels[right], minlength=classes) / np.maximum(sizes, 1)

    def statistics(counts: Counts) -> Statistics:
        true, taken, hits = truly(counts), supposed(counts), rightly(counts)  # (b, c)
        recall, precision = hits / np.maximum(true, 1), hits / np.maximum(taken, 1)
        f1 = 2 * hits / np.maximum(true + taken, 1)
        per_class: Floats = np.where(true > 0, recall, whole)[:, seen].mean(axis=1)
        with np.errstate(invalid="ignore"):  # no labelled picture drawn: NaN
            counted = (true + taken > 0).sum(axis=1)
            macro = zip(MACRO, (precision, recall, f1), strict=True)
            means = {name: value.sum(axis=1) / counted for name, value in macro}
            return {"mean_per_class_recall": per_class, **means}

    recall_part = np.zeros(pictures)
    np.add.at(recall_part, owner, right / (seen.sum() * sizes[labels]))
    names = ("mean_per_class_recall", *MACRO)
    return Resampling(
        pictures,
        max(pictures, len(labels), classes),
        statistics,
        {"mean_per_class_recall": recall_part},
        dict.fromkeys(names, len(np.unique(owner))),
    )


def calibration_error_resampling(
    name: str, probabilities: Floats, right: Floats, owner: Counts, pictures: int, *, bins: int = BINS
) -> Resampling:
    """The expected calibration error, see `reliability`, under a `name`.

    Args:
        name: of the metric.
        probabilities: (k,) of the best class.
        right: (k,) whether it is the true one.
        owner: (k,), the picture (0..n-1) of each.
        pictures: n.
        bins: of equal width.
    """
    place = (probabilities * bins).astype(np.int64).clip(0, bins - 1)
    too_sure = np.zeros((pictures, bins))
    np.add.at(too_sure, (owner, place), probabilities - right)
    sizes = np.bincount(owner, minlength=pictures)

    def statistics(counts: Counts) -> Statistics:
        with np.errstate(invalid="ignore"):
            return {name: np.abs(counts @ too_sure).sum(axis=1) / (counts @ sizes)}

    return Resampling(pictures, pictures, statistics, biased=frozenset([name]))


def average_precision_resampling(scores: Floats, truth: NDArray[np.bool_]) -> Resampling:
    """`map` over classes; a class that no picture of a resample has counts in no mean of it.

    Args:
        scores: (n, c).
        truth: (n, c) bool.
    """
    columns = [(column, mine) for column, mine in zip(scores.T, truth.T, strict=True) if mine.any()]
    every = [_AveragePrecision(column, mine) for column, mine in columns]

    def statistics(counts: Counts) -> Statistics:
        found = np.stack([of_class(counts) for of_class in every])  # (c, b)
        present = ~np.isnan(found)
        with np.errstate(invalid="ignore"):
            return {"map": np.where(present, found, 0.0).sum(axis=0) / present.sum(axis=0)}

    return Resampling(len(scores), len(scores), statistics, witnesses={"map": int(truth.any(axis=1).sum())})


class _AveragePrecision:
    """Average precision of one class, from how often each picture is drawn.

    A positive that is drawn w times after P others, and of R rivals that score at least as much, adds
    sum over t = 1..w of (P + t) / (P + t + R) = w - R (H(P + w + R) - H(P + R)), H being the harmonic numbers.
    """

    def __init__(self, scores: Floats, truth: NDArray[np.bool_]) -> None:
        positives, rivals = np.flatnonzero(truth), np.flatnonzero(~truth)
        self.positives = positives[(-scores[positives]).argsort(kind="stable")]
        self.rivals = rivals[(-scores[rivals]).argsort(kind="stable")]
        # How many rivals score at least as much as each positive.
        self.before = np.searchsorted(-scores[self.rivals], -scores[self.positives], side="right")
        self.harmonic = np.concatenate([[0.0], (1 / np.arange(1, len(scores) + 1)).cumsum()])

    def __call__(self, counts: Counts) -> Floats:
        """(b, n) counts to (b,), NaN where no positive was drawn."""
        mine = counts[:, self.positives]
        upto = mine.cumsum(axis=1)
        rivals = np.zeros((len(counts), len(self.rivals) + 1), dtype=np.int64)
        counts[:, self.rivals].cumsum(axis=1, out=rivals[:, 1:])
        rivals = rivals[:, self.before]  # (b, positives)
        lost = rivals * (self.harmonic[upto + rivals] - self.harmonic[upto - mine + rivals])
        with np.errstate(invalid="ignore"):
            found: Floats = (mine - lost).sum(axis=1) / upto[:, -1]
        return found


class _Grouped:
    """How many of k rows are of each of c groups, from how often their pictures are drawn.

    Args:
        groups: (k,) in 0..c-1.
        owner: (k,), the picture of each row.
        count: c.
    """

    def __init__(self, groups: Counts, owner: Counts, count: int) -> None:
        order = groups.argsort(kind="stable")
        self.owner, ordered, self.count = owner[order], groups[order], count
        self.starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self.present = ordered[self.starts]

    def __call__(self, counts: Counts) -> Counts:
        """(b, n) to (b, c)."""
        found = np.zeros((len(counts), self.count), dtype=np.int64)
        if len(self.starts):
            found[:, self.present] = np.add.reduceat(counts[:, self.owner], self.starts, axis=1)
        return found
