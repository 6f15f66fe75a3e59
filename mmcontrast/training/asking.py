"""What the ranks ask each other between steps: whether to stop, and whether it is time for a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from mmcontrast import distributed
from mmcontrast.training.schedule import due

ASK_RANKS_EVERY = 5
"""Steps between two times that the ranks ask each other: the answer waits for their devices."""


class RankQuestions:
    """Answers that are the same on all ranks; one that is not alone asks the others only every few steps.

    Args:
        device: for the exchange.
        minutes: from one checkpoint to the next by the clock of the first rank, or None. It is a clock that nobody
            sets: a jump of the time of day changes nothing.
        clock: seconds since some moment.
    """

    def __init__(
        self, device: torch.device, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.device, self.clock = device, clock
        self.seconds = None if minutes is None else 60 * minutes
        self._saved_at = clock()

    def ask(self, step: int, stop: bool) -> tuple[bool, bool]:
        """Whether any rank was told to stop, and whether a checkpoint is due by the clock."""
        if distributed.world_size() > 1 and not due(step, ASK_RANKS_EVERY):
            return False, False
        old = self.seconds is not None and self.clock() - self._saved_at >= self.seconds
        stopping, save = distributed.any_rank_of([stop, old and distributed.rank() == 0], self.device)
        return stopping, save

    def saved(self) -> None:
        """A checkpoint was just saved."""
        self._saved_at = self.clock()
