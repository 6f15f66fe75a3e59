"""How far the scores would move with other pictures: 95 % bootstrap intervals of all tasks.

`resampling` says what is drawn and what stays. What has no interval is None: effective rank and hubness, see
`resampled_geometry`; the spread over draws of few shots, which test pictures do not decide; and what is chosen or
fitted on other pictures than those that are measured: the strength of a probe, the temperature of a calibration.
"""

from __future__ import annotations

from mmcontrast.evaluation.resampled_tasks import evaluation_resamplings
from mmcontrast.evaluation.resampling import LEVEL as LEVEL
from mmcontrast.evaluation.resampling import RESAMPLES as RESAMPLES
from mmcontrast.evaluation.resampling import Intervals as Intervals
from mmcontrast.evaluation.resampling import percentiles, resampled
from mmcontrast.evaluation.tasks import Evaluation


def evaluation_intervals(
    evaluation: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> dict[str, Intervals]:
    """{task: {metric: (low, high)}} of all results of an evaluation, the same metrics as in `evaluation.results`.

    Args:
        evaluation: with details of each task.
        resamples: how often as many pictures as there are are drawn, with replacement.
        seed: of the draws; the same seed gives the same intervals.
        level: share of the resamples within an interval.
    """
    resamplings = evaluation_resamplings(evaluation)
    found: dict[str, Intervals] = {}
    for task, metrics in evaluation.results.items():
        known: Intervals = {}
        if (one := resamplings.get(task)) is not None:
            known = percentiles(one, resampled(one, resamples=resamples, seed=seed), level=level)
        found[task] = {name: known.get(name) for name in metrics}
    return found
