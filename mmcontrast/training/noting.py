"""What a run notes down about its steps: a line of means every few of them, and those that were odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcontrast.errors import TrainingError
from mmcontrast.training.log import few_negatives
from mmcontrast.training.odd_steps import SPIKE

if TYPE_CHECKING:
    from mmcontrast.training.trainer import Trainer

ALL_KNOWN = 0.999


def read_steps(trainer: Trainer, *, all_steps: bool = False) -> None:
    """Look at the steps whose numbers are there; the host reads those of a GPU a few steps late.

    Raises:
        TrainingError: too many of them in a row had to be skipped.
    """
    progress = trainer.progress
    for _, odd in trainer.guard.read(all_steps=all_steps):
        skipped = odd is not None and odd.kind != SPIKE
        progress.bad_steps += skipped
        progress.bad_in_a_row = progress.bad_in_a_row + 1 if skipped else 0
        if odd is not None:
            trainer.odd_steps.add(odd, trainer.display.warn)
            trainer.odd_steps.check(odd, progress.bad_in_a_row)


def log_step(trainer: Trainer) -> None:
    """A line of metrics.jsonl, and what the user should know about it.

    Raises:
        TrainingError: there is nothing to tell apart.
        DataError: too many rows are bad.
    """
    read_steps(trainer, all_steps=True)
    progress = trainer.progress
    means, seconds = trainer.window.flush()
    pairs_per_step = progress.samples_seen // progress.global_step
    bare = trainer.accelerator.unwrap_model(trainer.model)
    values = {
        "global_step": progress.global_step,
        "epoch": progress.epoch,
        "samples_seen": progress.samples_seen,
        **means,
        **trainer.batches.diagnostics,
        "bad_steps": progress.bad_steps,
        "logit_scale": bare.logit_scale.exp().item(),
        "lr": trainer.scheduler.get_last_lr()[0],
        "pairs_per_second": pairs_per_step / seconds,
        "seconds_per_step": seconds,
    }
    trainer.metrics.write(values)
    trainer.display.values(values)
    if warning := few_negatives(values, pairs_per_step):
        trainer.display.warn_once("few negatives", warning)
    trainer.bad_rows.add(trainer.new_bad_rows, progress.samples_seen)
    trainer.new_bad_rows = []
    for file in trainer.line_files:
        if file.problem:
            trainer.display.warn(f"{file.problem}; the lines are kept in memory and tried again with the next ones")
    if means.get("known_positive_share", 0.0) > ALL_KNOWN:
        raise TrainingError(
            "every caption of a batch fits every picture of it (same caption or group), so there is nothing to "
            "tell apart: check data.caption_column and data.group_column"
        )
