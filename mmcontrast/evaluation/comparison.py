"""Several models measured on the same data: values, intervals, paired differences, and who wins what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from mmcontrast.errors import DataError
from mmcontrast.evaluation.paired import FLIPS, Difference, differences, holm
from mmcontrast.evaluation.resampled_tasks import evaluation_resamplings
from mmcontrast.evaluation.resampling import LEVEL, RESAMPLES, Resampling, Statistics, percentiles, resampled
from mmcontrast.evaluation.tasks import Evaluation


@dataclass(frozen=True)
class MetricCompared:
    """One metric of k models.

    Attributes:
        values: k, None where it is not defined.
        intervals: k, None where there is none.
        differences: k, of each model against the first; None for the first itself and where there is none.
    """

    values: list[float | None]
    intervals: list[tuple[float, float] | None]
    differences: list[Difference | None]


TasksCompared = dict[str, dict[str, MetricCompared]]
"""{task: {metric: compared}}"""


def compare_evaluations(
    evaluations: Mapping[str, Sequence[Evaluation]],
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, TasksCompared]:
    """Compare models on one or more data sets; p values are corrected by Holm for the number of all that are returned.

    Args:
        evaluations: {name of the data: an evaluation of each model, the same tasks in each}.
        resamples: how often pictures are drawn, the same for all models.
        flips: see `sign_flip_p`.
        seed: of draws and flips.
        level: share of the resamples within an interval.

    Raises:
        DataError: the models did not see the same pictures and captions.
    """
    found = {
        name: _compare(several, resamples=resamples, flips=flips, seed=seed, level=level)
        for name, several in evaluations.items()
    }
    every = [one for tasks in found.values() for metrics in tasks.values() for one in metrics.values()]
    raw = [difference.p for one in every for difference in one.differences if difference is not None]
    corrected = iter(holm(raw))
    for one in every:
        one.differences[:] = [
            None if difference is None else replace(difference, adjusted=next(corrected))
            for difference in one.differences
        ]
    return found


class _Drawn(NamedTuple):
    """A resampling and what it gave."""

    of: Resampling
    values: Statistics


def _compare(several: Sequence[Evaluation], *, resamples: int, flips: int, seed: int, level: float) -> TasksCompared:
    _check_same_data(several)
    resamplings = [evaluation_resamplings(one) for one in several]
    found: TasksCompared = {}
    for task, metrics in several[0].results.items():
        drawn = [
            None if (one := every.get(task)) is None else _Drawn(one, resampled(one, resamples=resamples, seed=seed))
            for every in resamplings
        ]
        ranges = [{} if one is None else percentiles(one.of, one.values, level=level) for one in drawn]
        moved = [_against(drawn[0], one, flips=flips, seed=seed, level=level) for one in drawn[1:]]
        found[task] = {
            metric: MetricCompared(
                [one.results[task].get(metric) for one in several],
                [own.get(metric) for own in ranges],
                [None, *(own.get(metric) for own in moved)],
            )
            for metric in metrics
        }
    return found


def _against(first: _Drawn | None, other: _Drawn | None, **options: Any) -> dict[str, Difference]:
    if first is None or other is None:
        return {}
    return differences(first.of, other.of, (first.values, other.values), **options)


def _check_same_data(several: Sequence[Evaluation]) -> None:
    first = several[0].data
    for other in (one.data for one in several[1:]):
        if not torch.equal(first.positions, other.positions) or first.captions != other.captions:
            raise DataError(
                f"{first.name}: the models did not see the same pictures and captions, so nothing is paired"
            )
