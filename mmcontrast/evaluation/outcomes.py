"""What became of each picture, caption or question in a task: what intervals, comparisons and reports are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.ranking import Ranking
from mmcontrast.evaluation.zero_shot import ZeroShotResult


class Items(NamedTuple):
    """What a metric is the mean of, over k items: queries, captions, questions.

    Attributes:
        values: (k,) bool, int64 or float64; the mean of their doubles is the metric.
        pictures: (k,) int64, the picture (0..n-1 of the embedded data) of each item; of two pictures the first.
    """

    values: Tensor
    pictures: Tensor


class Classified(NamedTuple):
    """Classes that k pictures were given.

    Attributes:
        labels: (k,) int64, the true classes.
        predictions: (k,) int64.
        ranks: (k,) int64 of the true class, from 1.
        class_names: c.
        pictures: (k,) int64, as in `Items`.
    """

    labels: Tensor
    predictions: Tensor
    ranks: Tensor
    class_names: list[str]
    pictures: Tensor


class Confidences(NamedTuple):
    """How sure a model is of the class it takes.

    Attributes:
        probabilities: (k,) float64 of the best class.
        right: (k,) bool, whether it is the true one.
        pictures: (k,) int64, as in `Items`.
    """

    probabilities: Tensor
    right: Tensor
    pictures: Tensor


class LabelScores(NamedTuple):
    """Scores of n pictures for c classes, several of which may be true.

    Attributes:
        scores: (n, c) float64.
        truth: (n, c) bool.
        class_names: c.
    """

    scores: Tensor
    truth: Tensor
    class_names: list[str]


@dataclass(frozen=True)
class Details:
    """What stands behind the metrics of one task; only what the task has is filled.

    Attributes:
        items: {metric: items}, the metric being their mean; `..._median_rank` is the median of the values of
            `..._mean_rank`.
        means: {metric: others}, the metric being the plain mean of those others that are not None; they are metrics or
            names of `items`, and may be means themselves.
        classified: for recall per class, precision and F1.
        confidences: {"ece": before, "ece_calibrated": after} a temperature.
        label_scores: for mean average precision.
    """

    items: dict[str, Items] = field(default_factory=dict)
    means: dict[str, list[str]] = field(default_factory=dict)
    classified: Classified | None = None
    confidences: dict[str, Confidences] = field(default_factory=dict)
    label_scores: LabelScores | None = None


@dataclass(frozen=True)
class TaskResult:
    """What one task gave.

    Attributes:
        metrics: the numbers.
        details: what they are made of.
        notes: what the reader should know of them.
        rankings: of the pictures and of the captions as queries, of retrieval.
        zero_shot: of zero-shot classification.
        spelled: class names of the data set -> as spelled in the prompts, where there are prompts.
    """

    metrics: Metrics
    details: Details = field(default_factory=Details)
    notes: list[str] = field(default_factory=list)
    rankings: tuple[Ranking, Ranking] | None = None
    zero_shot: ZeroShotResult | None = None
    spelled: dict[str, str] | None = None


def ranking_items(prefix: str, ranking: Ranking, pictures: Tensor, recalls: Metrics) -> dict[str, Items]:
    """Items of the metrics of one direction of retrieval.

    Args:
        prefix: of the metrics, "image_to_text_" say.
        ranking: of the queries.
        pictures: (q,) int64, the picture of each query.
        recalls: metrics among which those named `prefix` + "recall@k" are looked up; those that are None are left out.
    """
    start = f"{prefix}recall@"
    ks = [
        int(name.removeprefix(start)) for name, value in recalls.items() if name.startswith(start) and value is not None
    ]
    values = {f"{start}{k}": ranking.ranks <= k for k in ks}
    values |= {f"{prefix}mean_rank": ranking.ranks, f"{prefix}map@r": ranking.precision}
    values |= {f"{prefix}r_precision": ranking.r_precision}
    return {name: Items(value, pictures) for name, value in values.items()}


def accuracy_items(ranks: Tensor, pictures: Tensor, found: Metrics) -> dict[str, Items]:
    """`acc1`, and `acc5` where `found` has one, from (k,) ranks of the true class and (k,) pictures."""
    return {f"acc{k}": Items(ranks <= k, pictures) for k in (1, 5) if found[f"acc{k}"] is not None}
