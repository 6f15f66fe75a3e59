"""What became of classified pictures: classes by recall, pairs that are confused, the surest mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcontrast.report.panes import ClassBar, ClassifiedPicture, ConfusedPair, Pane, Thumbnail
from mmcontrast.report.views import MAX_CLASSES, confusion_view

PAIRS, EXAMPLES, MISTAKES = 8, 4, 18
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Classification:
    """k classified pictures.

    Attributes:
        labels, predictions: (k,) classes.
        names: c.
        pictures: (k,) which pictures of the data they are.
        predicted, true: (k,) probabilities that the model states for the two classes, or None.
    """

    labels: Integers
    predictions: Integers
    names: Sequence[str]
    pictures: Integers
    predicted: NDArray[np.float64] | None = None
    true: NDArray[np.float64] | None = None

    def surest(self, chosen: Integers) -> Integers:
        """Some of the k, those first that the model is surest of; in their order where that is not known."""
        if self.predicted is None:
            return chosen
        return chosen[np.argsort(-self.predicted[chosen], kind="stable")]


def classification_panes(found: Classification, thumbnail: Thumbnail, note: Callable[[int], str]) -> list[Pane]:
    """Matrix, bars, confused pairs and mistakes.

    Args:
        found: what the pictures were classified as.
        thumbnail: of a picture of the data.
        note: where a picture of the data comes from.
    """
    shown = _Shown(found, thumbnail, note)
    counts = np.zeros((len(found.names), len(found.names)), np.int64)
    np.add.at(counts, (found.labels, found.predictions), 1)
    mistakes = found.surest(np.flatnonzero(found.labels != found.predictions))
    panes = [Pane("Classes", _bars_lead(counts), bars=class_bars(counts, found.names))]
    if pairs := confused_pairs(found, counts, shown):
        lead = (
            "Classes that are taken for another one most often, by their share of the true class, with the pictures "
            "that the model is surest of. To the right, a picture that is rightly of the class they were taken for."
        )
        panes.append(Pane("Confused", lead, confused=pairs))
    if len(mistakes):
        what = "The mistakes that the model is surest of" if found.predicted is not None else "Some of the mistakes"
        lead = f"{what}, of {len(mistakes):,} in all. At times it is the label that is wrong."
        panes.append(Pane("Mistakes", lead, mistakes=[shown(k) for k in _varied(found, mistakes)]))
    if len(found.names) <= MAX_CLASSES:
        lead = "Rows are true classes, columns predictions; each row sums to 100 %."
        panes.append(Pane("Matrix", lead, confusion=confusion_view((counts, found.names))))
    return panes


@dataclass(frozen=True)
class _Shown:
    found: Classification
    thumbnail: Thumbnail
    note: Callable[[int], str]

    def __call__(self, k: int) -> ClassifiedPicture:
        found, picture = self.found, int(self.found.pictures[k])
        return ClassifiedPicture(
            self.thumbnail(picture),
            found.names[found.labels[k]],
            found.names[found.predictions[k]],
            None if found.predicted is None else float(found.predicted[k]),
            None if found.true is None else float(found.true[k]),
            self.note(picture),
        )


def class_bars(counts: Integers, names: Sequence[str]) -> list[ClassBar]:
    """From (c, c) counts the classes that have pictures, by falling recall; equal ones by falling support."""
    support, right = counts.sum(axis=1), counts.diagonal()
    bars = [ClassBar(names[i], int(right[i]), int(support[i])) for i in range(len(names)) if support[i]]
    return sorted(bars, key=lambda bar: (-bar.recall, -bar.support))


def _bars_lead(counts: Integers) -> str:
    absent = int((counts.sum(axis=1) == 0).sum())
    missing = f" {absent} classes have no picture and are left out." if absent else ""
    return f"Recall of each class: the share of its pictures that is right.{missing}"


def confused_pairs(found: Classification, counts: Integers, shown: _Shown) -> list[ConfusedPair]:
    """The pairs (true class, other class) with the largest shares, of more pictures where shares are equal."""
    support = counts.sum(axis=1)
    pairs = [(int(i), int(j)) for i, j in np.argwhere((counts > 0) & ~np.eye(len(counts), dtype=bool))]
    pairs.sort(key=lambda pair: (-counts[pair] / support[pair[0]], -counts[pair]))
    likes: dict[int, int] = {}
    shown_pairs = []
    for i, j in pairs[:PAIRS]:
        right = found.surest(_of(found, j, j))
        like = right[likes.get(j, 0) % len(right)] if len(right) else None  # not the same picture again
        likes[j] = likes.get(j, 0) + 1
        examples = [shown(k) for k in found.surest(_of(found, i, j))[:EXAMPLES]]
        shown_pairs.append(
            ConfusedPair(
                found.names[i],
                found.names[j],
                int(counts[i, j]),
                int(support[i]),
                examples,
                None if like is None else shown(like),
            )
        )
    return shown_pairs


def _of(found: Classification, label: int, prediction: int) -> Integers:
    return np.flatnonzero((found.labels == label) & (found.predictions == prediction))


def _varied(found: Classification, mistakes: Integers, each: int = 3) -> list[int]:
    """The first MISTAKES of some, at most so many of a pair of classes: the same confusion again teaches nothing."""
    seen: dict[tuple[int, int], int] = {}
    chosen = []
    for k in mistakes.tolist():
        pair = int(found.labels[k]), int(found.predictions[k])
        seen[pair] = seen.get(pair, 0) + 1
        if seen[pair] <= each:
            chosen.append(k)
        if len(chosen) == MISTAKES:
            break
    return chosen
