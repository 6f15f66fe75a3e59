"""From what became of each picture in a task to how its metrics hang on the pictures that are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, Items
from mmcontrast.evaluation.resampled_classes import (
    average_precision_resampling,
    calibration_error_resampling,
    classes_resampling,
)
from mmcontrast.evaluation.resampled_geometry import geometry_resampling
from mmcontrast.evaluation.resampling import Counts, Floats, Resampling, Statistics, joined, means, with_mean
from mmcontrast.evaluation.tasks import Evaluation

_SHARES = ("map@r", "r_precision", "acc1@")  # of items that are no booleans, but means of them

_DROP = "_drop"


def evaluation_resamplings(evaluation: Evaluation, *, seed: int = 0) -> dict[str, Resampling]:
    """{task: resampling}, of the tasks that have any metric which can be resampled.

    Args:
        evaluation: whose results and details they are.
        seed: that it was made with.
    """
    found: dict[str, Resampling] = {}
    for task, metrics in evaluation.results.items():
        if task == "geometry":
            data = evaluation.data
            whole = geometry_resampling(data.image_features, data.text_features, data.text_images, seed=seed)
            found[task] = _only(whole, metrics)
        elif (one := task_resampling(metrics, evaluation.details[task])) is not None:
            found[task] = one
    return found


def task_resampling(metrics: Metrics, details: Details) -> Resampling | None:
    """Of those metrics of a task that can be resampled, or None where none can be.

    The pictures are those that take part: the labelled ones of a classification, the measured half of a calibration,
    the pairs of Winoground.

    Args:
        metrics: of the task; what is None in it is left out.
        details: of the task.
    """
    numbers, pictures = _take_part(details)
    every: list[Resampling] = []
    # Items may stand for parts of a metric that are none themselves.
    if items := {name: item for name, item in details.items.items() if metrics.get(name, 0) is not None}:
        columns = {name: (_values(item), numbers[item.pictures].numpy()) for name, item in items.items()}
        every.append(means(columns, pictures, [name for name, item in items.items() if _is_share(name, item)]))
        every += [
            _median(name.replace("mean_rank", "median_rank"), *column, pictures)
            for name, column in columns.items()
            if name.endswith("mean_rank")
        ]
    if (classified := details.classified) is not None:
        owner = numbers[classified.pictures].numpy()
        every.append(
            classes_resampling(
                classified.labels.numpy(),
                classified.predictions.numpy(),
                owner,
                pictures,
                len(classified.class_names),
            )
        )
    for name, (probabilities, right, own) in details.confidences.items():
        values = probabilities.double().numpy(), right.double().numpy()
        every.append(calibration_error_resampling(name, *values, numbers[own].numpy(), pictures))
    if (labels := details.label_scores) is not None:
        every.append(average_precision_resampling(labels.scores.numpy(), labels.truth.numpy()))
    if not every:
        return None
    whole = joined(every)
    for name, of in details.means.items():
        if defined := [other for other in of if other in items or metrics.get(other) is not None]:
            whole = with_mean(whole, name, defined)
    for name in metrics:
        if name.endswith(_DROP):
            corrupted = name.removesuffix(_DROP)
            whole = _with_drop(whole, name, f"clean/{corrupted.rpartition('/')[2]}", corrupted)
    return _only(whole, metrics)


def _take_part(details: Details) -> tuple[Tensor, int]:
    """From the number of a picture in the data to that among the n pictures which take part; and n."""
    if details.label_scores is not None:
        pictures = len(details.label_scores.scores)
        return torch.arange(pictures), pictures
    owners = [item.pictures for item in details.items.values()]
    owners += [found.pictures for found in details.confidences.values()]
    owners += [] if details.classified is None else [details.classified.pictures]
    present = torch.unique(torch.cat(owners)) if owners else torch.empty(0, dtype=torch.int64)
    numbers = torch.full((int(present.max()) + 1 if len(present) else 0,), -1)
    numbers[present] = torch.arange(len(present))
    return numbers, len(present)


def _values(item: Items) -> Floats:
    values: Floats = item.values.double().numpy()
    return values


def _is_share(name: str, item: Items) -> bool:
    return item.values.dtype == torch.bool or any(part in name for part in _SHARES)


def _only(one: Resampling, metrics: Metrics) -> Resampling:
    """Without what was not measured."""

    def statistics(counts: Counts) -> Statistics:
        found = one.statistics(counts)
        return {name: found[name] for name, value in metrics.items() if value is not None and name in found}

    parts = {name: part for name, part in one.parts.items() if metrics.get(name) is not None}
    return replace(one, statistics=statistics, parts=parts)


def _with_drop(one: Resampling, name: str, clean: str, corrupted: str) -> Resampling:
    """With the share of the clean score that is lost, see `robustness`."""

    def statistics(counts: Counts) -> Statistics:
        found = one.statistics(counts)
        if clean not in found or corrupted not in found:
            return found
        with np.errstate(invalid="ignore", divide="ignore"):  # nothing to lose: counts in no interval
            lost = np.where(found[clean] > 0, 1 - found[corrupted] / found[clean], np.nan)
        return found | {name: lost}

    return replace(one, statistics=statistics)


def _median(name: str, ranks: Floats, owner: Counts, pictures: int) -> Resampling:
    """The median of (q,) ranks of queries to (q,) pictures."""
    order = ranks.argsort(kind="stable")
    ascending, owners = ranks[order], owner[order]
    return Resampling(
        pictures, max(pictures, len(ranks)), lambda counts: {name: _medians(ascending, counts[:, owners])}
    )


def _medians(ascending: Floats, weights: Counts) -> Floats:
    """(b,) medians of (n,) ascending values that occur (b, n) times; the mean of the middle two of an even number."""
    upto = weights.cumsum(axis=1)
    total = upto[:, -1:]
    low, high = ((upto <= middle).sum(axis=1) for middle in ((total - 1) // 2, total // 2))
    last = len(ascending) - 1
    medians: Floats = (ascending[low.clip(max=last)] + ascending[high.clip(max=last)]) / 2
    return np.where(total[:, 0] > 0, medians, np.nan)
