"""Means of what was seen since the last logged step."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from mmcontrast import distributed


class StepWindow:
    """Sums values on their device (reading them every step would make a GPU wait) and times the steps."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._restart()

    def add(self, values: dict[str, Tensor]) -> None:
        """Note one step's scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.detach().float()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._timed_steps += 1

    def exclude(self, seconds: float) -> None:
        """Take time that was no training (an evaluation) out of the clock."""
        self._start += seconds

    def total(self, name: str) -> float:
        """This rank's sum in the open window; 0 where nothing was added yet."""
        return self._sums[name].item() if name in self._sums else 0.0

    def flush(self) -> tuple[dict[str, float], float]:
        """Means over all ranks and the steps that had the value, and seconds a step; starts the next window.

        A rule that begins to work in the middle of a window has no values before: those steps must not count as 0.
        """
        totals = distributed.all_gather(torch.stack(list(self._sums.values()))[None]).mean(dim=0)
        counts = torch.tensor([self._counts[name] for name in self._sums], device=totals.device)
        means = dict(zip(self._sums, (totals / counts).tolist(), strict=True))
        seconds = (time.perf_counter() - self._start) / max(1, self._timed_steps)
        self._sums, self._counts = {}, {}
        self._restart()
        return means, seconds

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: a run may stop in the middle of a window."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on in the middle of a window; only the clock starts anew."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])
        self._restart()

    def _restart(self) -> None:
        self._start, self._timed_steps = time.perf_counter(), 0
