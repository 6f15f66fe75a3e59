"""Where a run stands, and when it does what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mmcontrast.types import PairBatch


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        global_step: optimiser steps taken.
        epoch: current pass over the data, from 0.
        batch_in_epoch: global batches of this epoch that were used.
        samples_seen: pairs of all ranks together.
        best_metric: best value of the watched metric so far, or None.
        best_step: step of that value.
        evaluations_without_gain: since then.
        bad_steps: steps that were skipped because their loss or gradient was not finite.
        bad_in_a_row: of them, the last ones without a good step since.
    """

    global_step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    samples_seen: int = 0
    best_metric: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    bad_steps: int = 0
    bad_in_a_row: int = 0


class EpochBatches(Protocol):
    """Training data: batches of one epoch, from any batch of it on.

    Attributes:
        diagnostics: numbers about how batches are composed, for the log.
        elastic: whether any number of processes gets the same global batches.
    """

    elastic: bool

    @property
    def diagnostics(self) -> dict[str, float]: ...  # noqa: D102

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's share of each global batch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same batches."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


@dataclass(frozen=True)
class Schedule:
    """When to do what, in optimiser steps.

    Attributes:
        total_steps: length of the run.
        log_every: steps between lines of metrics.jsonl.
        evaluate_every: steps between evaluations (the last step is always evaluated), or None.
        checkpoint_every: steps between checkpoints, or None for one at each evaluation; interruptions and the end
            always save one.
        patience: evaluations without gain before the run stops early, or None.
        checkpoint_minutes: a checkpoint is also saved when so much time has passed since the last one, or None.
    """

    total_steps: int
    log_every: int = 10
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    patience: int | None = None
    checkpoint_minutes: float | None = None


def due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps (None: never) happens at `step`."""
    return every is not None and step % every == 0
