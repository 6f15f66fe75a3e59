"""Evaluation within a run: measure, keep the best model, write the line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from mmcontrast import distributed
from mmcontrast.errors import TrainingError
from mmcontrast.training.memory import reworded

if TYPE_CHECKING:
    from mmcontrast.training.trainer import Trainer


def evaluate(trainer: Trainer) -> None:
    """Measure the model as it is, and save it if it is the best so far; all ranks together.

    Raises:
        TrainingError: the metric that decides was not computed, or memory is full.
    """
    assert trainer.evaluator is not None
    start = time.perf_counter()
    progress = trainer.progress
    # Every rank evaluates: the numbers agree, so nobody has to be told the decision that follows from them.
    try:
        values = trainer.evaluator(trainer.bare_model)
    except (RuntimeError, MemoryError) as error:
        raise reworded(error, "the evaluation does not fit; lower evaluation.batch_size") from error
    metric = values.get(trainer.best_metric)
    if metric is None:
        raise TrainingError(
            f"evaluation.best_metric: no metric {trainer.best_metric!r} was computed; there are {', '.join(values)}"
        )
    better = progress.best_metric is None or metric > progress.best_metric
    if better and _save_best(trainer):
        progress.best_metric, progress.best_step = metric, progress.global_step
    progress.evaluations_without_gain = 0 if better else progress.evaluations_without_gain + 1
    names = ("global_step", "epoch", "samples_seen")
    line = {name: getattr(progress, name) for name in names} | {"split": "validation"}
    # TASK.METRIC is how configs name a metric; lines of the log carry the metric's own name.
    trainer.metrics.write(line | {name.partition(".")[2]: value for name, value in values.items()})
    trainer.display.evaluation(progress.global_step, values, trainer.best_metric, better)
    trainer.window.exclude(time.perf_counter() - start)


def _save_best(trainer: Trainer) -> bool:
    """Save the model; where the disk does not take it, say so and go on: the next one that is as good will be saved."""
    problem: str | None = None
    try:
        trainer.save_best(trainer.bare_model)
    except (OSError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        problem = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
    found = distributed.gather_lists([problem or ""] if problem is not None else [])
    if found:
        trainer.display.warn(
            f"the best model so far, of step {trainer.progress.global_step}, cannot be saved: {found[0]}; the run goes "
            "on, and saves the next one that is better than the model there is"
        )
    return not found
