"""Means of what was seen since the last logged step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmcontrast import distributed


class StepWindow:
    """Sums values on their device (reading them every step would make a GPU wait) and times the steps.

    Steps that have the same values share one vector of sums: a step costs four small operations, not one a value.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], Tensor] = {}
        self._restart()

    def add(self, values: Mapping[str, Tensor], good: Tensor) -> None:
        """Note one step's scalars, unless `good` (a bool on their device, the same on all ranks) says it was none."""
        names = tuple(values)
        row = torch.stack([value.detach().float() for value in values.values()])
        row = torch.where(good, row, 0.0)
        self._sums[names] = self._sums[names] + row if names in self._sums else row
        self._counts[names] = self._counts[names] + good if names in self._counts else good.float()
        self._timed_steps += 1

    def exclude(self, seconds: float) -> None:
        """Take time that was no training (an evaluation) out of the clock."""
        self._start += seconds

    def flush(self) -> tuple[dict[str, float], float]:
        """Means over all ranks and the good steps that had the value (NaN if none), and seconds a step; starts anew.

        A rule that begins to work in the middle of a window has no values before: those steps must not count as 0.
        """
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for names, row in self._sums.items():
            for place, name in enumerate(names):
                sums[name] = sums[name] + row[place] if name in sums else row[place]
                counts[name] = counts[name] + self._counts[names] if name in counts else self._counts[names]
        totals = distributed.all_gather(torch.stack(list(sums.values()))[None]).mean(dim=0)
        found = (totals / torch.stack(list(counts.values()))).tolist()
        means = dict(zip(sums, (value if math.isfinite(value) else math.nan for value in found), strict=True))
        seconds = (time.perf_counter() - self._start) / max(1, self._timed_steps)
        self._sums, self._counts = {}, {}
        self._restart()
        return means, seconds

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: a run may stop in the middle of a window."""
        return {"names": [list(names) for names in self._sums], "sums": list(self._sums.values())} | {
            "counts": list(self._counts.values())
        }

    def load_state_dict(self, states: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Go on in the middle of a window, from this rank's state or the mean of several; the clock starts anew."""
        names = [tuple(some) for some in states[0]["names"]]
        sums = [torch.stack(parts).mean(dim=0) for parts in zip(*(state["sums"] for state in states), strict=True)]
        self._sums = dict(zip(names, (value.to(device) for value in sums), strict=True))
        self._counts = dict(zip(names, (value.to(device) for value in states[0]["counts"]), strict=True))
        self._restart()

    def _restart(self) -> None:
        self._start, self._timed_steps = time.perf_counter(), 0
