"""Intervals of an evaluation as JSON: RUN/intervals.json, and `mmcontrast evaluate --intervals`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcontrast.evaluation.intervals import LEVEL, RESAMPLES, Intervals, evaluation_intervals
from mmcontrast.evaluation.tasks import Evaluation

SEED = 0


def scored_intervals(evaluation: Evaluation) -> dict[str, Intervals]:
    """{task: {metric: (low, high)}}, None where there is none: 95 %, from 1000 resamples."""
    return evaluation_intervals(evaluation, resamples=RESAMPLES, seed=SEED, level=LEVEL)


def interval_document(intervals: Mapping[str, Intervals]) -> dict[str, Any]:
    """{"level", "resamples", "seed", "intervals": {task: {metric: [low, high] or null}}}."""
    return {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "intervals": dict(intervals)}
