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
        self._steps = 0
        self._restart()

    def add(self, values: dict[str, Tensor]) -> None:
        """Note one step's scalars."""
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.detach().float()
        self._steps += 1
        self._timed_steps += 1

    def exclude(self, seconds: float) -> None:
        """Take time that was no training (an evaluation) out of the clock."""
        self._start += seconds

    def total(self, name: str) -> float:
        """This rank's sum in the open window; 0 where nothing was added yet."""
        return self._sums[name].item() if name in self._sums else 0.0

    def flush(self) -> tuple[dict[str, float], float]:
        """Means over the window's steps and over all ranks, and seconds a step; starts the next window."""
        totals = distributed.all_gather(torch.stack(list(self._sums.values()))[None]).mean(dim=0)
        means = dict(zip(self._sums, (totals / self._steps).tolist(), strict=True))
        seconds = (time.perf_counter() - self._start) / max(1, self._timed_steps)
        self._sums, self._steps = {}, 0
        self._restart()
        return means, seconds

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: a run may stop in the middle of a window."""
        return {"sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on in the middle of a window; only the clock starts anew."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._steps = state["steps"]
        self._restart()

    def _restart(self) -> None:
        self._start, self._timed_steps = time.perf_counter(), 0
