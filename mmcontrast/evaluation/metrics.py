"""Retrieval and classification metrics: pure functions, tensors in, numbers out.

Ties are decided against the query everywhere: a rival with exactly the score of a positive stands before it. So
constant features score nothing, never everything, and no metric depends on the order of rows. Where no two scores
are equal this is the ranking that any sort gives.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mmcontrast.errors import DataError

Metrics = dict[str, float | None]
"""Metric name to value; None where the metric is not defined (recall@10 in a gallery of 8), JSON's null."""

_FIXED_POINT = 2.0**26


def exact_units(features: Tensor) -> Tensor:
    """(n, d) features to (n, d) float64 unit vectors whose products are exact: score them by `left @ right.T`.

    Coordinates are rounded to multiples of 2^-26. Every partial sum of their products is then a multiple of 2^-52
    below 2, which float64 holds exactly: the order of summation, and with it chunk size, number of threads and
    device, cannot turn a tie into a win. The rounding moves a cosine by about 1e-8, less than float32 does.
    """
    unit = torch.nn.functional.normalize(features.double().contiguous(), dim=-1)
    return (unit * _FIXED_POINT).round() / _FIXED_POINT


def first_ranks(scores: Tensor, positive: Tensor) -> Tensor:
    """Rank of the best-placed positive of each query, counted from 1.

    Args:
        scores: (q, m) of q queries against a gallery of m.
        positive: (q, m) bool, at least one True in a row.

    Returns:
        (q,) int64: 1 + the number of negatives that score at least as much as the best positive.
    """
    _check_positives(positive)
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + ((scores >= best) & ~positive).sum(dim=1)


def recall_at_k(scores: Tensor, positive: Tensor, ks: Iterable[int]) -> dict[int, float]:
    """Share of queries with at least one positive among their k best, for each k; arguments as `first_ranks`."""
    ranks = first_ranks(scores, positive)
    return {k: hit_share(ranks, k) for k in ks}


def hit_share(ranks: Tensor, k: int) -> float:
    """Share of the (q,) ranks that are at most k."""
    return (ranks <= k).double().mean().item()


def mean_rank(ranks: Tensor) -> float:
    """Mean of the (q,) ranks; 1 is perfect."""
    return ranks.double().mean().item()


def median_rank(ranks: Tensor) -> float:
    """Median of the (q,) ranks, the mean of the middle two when q is even."""
    ordered = ranks.double().sort().values
    return ((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2).item()


def average_precision_at_r(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision at R of each query (Musgrave et al. 2020), R being its number of positives.

    AP@R = 1/R * sum of precision@i over those places i <= R that hold a positive: 1 when the R best are exactly the
    positives, and places below R earn nothing. Arguments as `first_ranks`.

    Returns:
        (q,) float64.
    """
    return precisions_at_r(scores, positive)[0]


def r_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Share of positives among the R best of each query, R being its number of positives; as `first_ranks`.

    Returns:
        (q,) float64.
    """
    return precisions_at_r(scores, positive)[1]


def precisions_at_r(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """`average_precision_at_r` and `r_precision` at the cost of one."""
    nth, rank, counts, num_positives = _placed_positives(scores, positive)
    averages = (counts * nth / rank.double()).sum(dim=1) / num_positives
    return averages, counts.sum(dim=1).double() / num_positives


def _placed_positives(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each query's positives, best first, padded to w: (w,) 1..w, (q, w) ranks, (q, w) in the R best?; (q,) R."""
    _check_positives(positive)
    num_positives = positive.sum(dim=1, keepdim=True)  # R, (q, 1)
    width = int(num_positives.max())
    hits = scores.masked_fill(~positive, -torch.inf).topk(width, dim=1).values  # (q, R) best first
    rivals = scores.masked_fill(positive, -torch.inf).topk(width, dim=1).values.flip(1).contiguous()  # worst first
    # Rivals beyond the R best are not seen, but a positive with R rivals before it earns nothing anyway.
    rivals_before = width - torch.searchsorted(rivals, hits)  # those that score at least as much
    nth = torch.arange(1, width + 1, device=scores.device)
    rank = nth + rivals_before
    counts = (nth <= num_positives) & (rank <= num_positives)
    return nth, rank, counts, num_positives.squeeze(1)


def map_at_r(scores: Tensor, positive: Tensor) -> float:
    """Mean over the queries of `average_precision_at_r`."""
    return average_precision_at_r(scores, positive).mean().item()


def _check_positives(positive: Tensor) -> None:
    without = (~positive.any(dim=1)).nonzero()
    if len(without):
        raise DataError(f"query {int(without[0])} has no positive in the gallery ({len(without)} such queries)")


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class of each picture: (n, c) logits and (n,) labels to (n,) int64, from 1."""
    own = logits.gather(1, labels[:, None])
    return (logits >= own).sum(dim=1)  # the true class counts itself


def predicted_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Best class of each picture, (n,) int64; in a tie with the true class the other class is taken.

    So the confusion matrix and the recall per class tell the same story as `acc1`.
    """
    if logits.shape[1] == 1:
        return torch.zeros_like(labels)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    rival, rival_class = logits.scatter(1, labels[:, None], -torch.inf).max(dim=1)
    return torch.where(rival >= own, rival_class, labels)


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(n,) predictions and (n,) labels to (c, c) int64 counts: row = true class, column = predicted class."""
    cells = labels * num_classes + predictions
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def mean_per_class_recall(confusion: Tensor) -> float:
    """Mean of the recalls of those classes that have pictures: sklearn's `balanced_accuracy_score`."""
    pictures = confusion.sum(dim=1)
    present = pictures > 0
    return (confusion.diagonal()[present] / pictures[present].double()).mean().item()


def accuracies(ranks: Tensor, num_classes: int) -> Metrics:
    """`acc1` and `acc5` of (n,) class ranks; `acc5` is None under five classes, where it says nothing."""
    return {"acc1": hit_share(ranks, 1), "acc5": hit_share(ranks, 5) if num_classes >= 5 else None}


def macro_scores(confusion: Tensor) -> Metrics:
    """Means over classes of precision, recall and F1, as scikit-learn's `average="macro"`.

    A class counts where it has pictures or was predicted; what would be 0 / 0 is 0.
    """
    right, true, predicted = confusion.diagonal().double(), confusion.sum(dim=1), confusion.sum(dim=0)
    counts = (true + predicted) > 0
    precision, recall = right / predicted.clamp(min=1), right / true.clamp(min=1)
    f1 = 2 * right / (true + predicted).clamp(min=1)
    values = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1}
    return {name: value[counts].mean().item() for name, value in values.items()}


def check_labels(labels: Tensor, pictures: int, num_classes: int, kind: str = "picture") -> None:
    """Raise DataError unless there is one label a picture, each in 0..num_classes-1; `kind` is said in the message."""
    if len(labels) != pictures:
        raise DataError(f"{len(labels)} labels for {pictures} {kind}s")
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"label {int(labels[row])} of {kind} {row} is out of range: there are {num_classes} class names, "
            f"for the labels 0 to {num_classes - 1}"
        )
