"""Steps whose loss or gradient is not finite: skipped on the device, counted, and named.

On a GPU nothing waits: the fused optimiser itself leaves everything as it is where a number on the device says so
(`found_inf`, made for gradient scalers), and the host reads a step's numbers a few steps later, when they are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from mmcontrast import distributed
from mmcontrast.training.odd_steps import NOT_FINITE, SPIKE, OddStep
from mmcontrast.types import Features, PairBatch

LAG = 4
"""Steps after which the host reads the numbers of a step that ran on a GPU."""
REMEMBERED = 64
"""Losses whose median a new one is compared with."""
LEAST_REMEMBERED = 20


@dataclass
class _Noted:
    step: int
    rows: list[int]
    learning_rate: float
    numbers: Tensor  # loss, gradient norm, logit scale, 1 if the step was good, then 1 for each row that is finite
    event: Any  # when the numbers are there; None on a CPU, where they are at once


class StepGuard:
    """Judges each step, and remembers what the host has not read yet.

    Args:
        model: the bare model on its device; a bad batch must not change its running statistics (batch norm).
        optimizer: fused, as `accelerator.prepare` returned it.
        scaled: whether a gradient scaler (fp16) skips by itself. It also tries scales that are too large, so there a
            step is bad only if its loss is.
        spike_factor: a loss of so many times the median of the last ones is a spike; None for never.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, *, scaled: bool = False, spike_factor: float | None = None
    ) -> None:
        self.scaled, self.spike_factor = scaled, spike_factor
        self._optimizer: Any = getattr(optimizer, "optimizer", optimizer)
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._buffers = [value for norm in norms for value in norm.buffers() if value.is_floating_point()]
        self._kept: list[Tensor] = []
        self._finite_rows: Tensor | None = None
        self._noted: deque[_Noted] = deque()
        self._losses: deque[float] = deque(maxlen=REMEMBERED)

    def begin(self) -> None:
        """Before the forward pass: remember the running statistics."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def features(self, features: Features) -> None:
        """Note which pairs of the step have finite features."""
        self._finite_rows = torch.isfinite((features.image.detach() + features.text.detach()).float().sum(dim=1))

    @torch.no_grad()
    def judge(self, loss: Tensor, gradient_norm: Tensor) -> tuple[Tensor, Tensor]:
        """After the backward pass: tell the optimiser whether to step, and put the statistics back if not.

        Args:
            loss: scalar, of this rank.
            gradient_norm: scalar, of all ranks together.

        Returns:
            The mean loss of all ranks, and whether the step is good: scalars on the device, the same on all ranks.
        """
        # Gathered, not reduced: every rank adds up the same numbers in the same order.
        mean = distributed.all_gather(loss.detach().float()[None]).mean()
        good = torch.isfinite(mean)
        if not self.scaled:
            good &= torch.isfinite(gradient_norm)
            self._optimizer.found_inf = (~good).float()
        for buffer, before in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(good, buffer, before))
        self._kept = []
        return mean, good

    def note(
        self, step: int, batch: PairBatch, rate: float, loss: Tensor, norm: Tensor, scale: Tensor, good: Tensor
    ) -> None:
        """Keep a step's numbers to be read later; `batch` as the loader gave it, on the host."""
        finite = self._finite_rows
        numbers = torch.stack([value.detach().float().reshape(()) for value in (loss, norm, scale, good)])
        if finite is not None:
            numbers = torch.cat([numbers, finite.float()])
        event = None
        if numbers.is_cuda:
            numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory: the host does not wait
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._noted.append(_Noted(step, batch.index.tolist(), rate, numbers, event))

    def read(self, *, all_steps: bool = False) -> Iterator[tuple[float, OddStep | None]]:
        """The losses of steps that are done, each with what was odd; the same on all ranks, which call it together.

        Args:
            all_steps: wait for all of them; else only for those that are `LAG` steps old on a GPU.
        """
        while self._noted and (all_steps or self._noted[0].event is None or len(self._noted) > LAG):
            noted = self._noted.popleft()
            if noted.event is not None:
                noted.event.synchronize()
            loss, norm, scale, good, *finite = noted.numbers.tolist()
            kind = None if good else NOT_FINITE
            if good:
                kind = SPIKE if self._is_spike(loss) else None
                self._losses.append(loss)
            if kind is None:
                yield loss, None
                continue
            pairs = list(zip(noted.rows, finite or [1.0] * len(noted.rows), strict=True))
            pairs = distributed.gather_lists(pairs)
            rows, broken = [row for row, _ in pairs], [row for row, fine in pairs if not fine]
            yield loss, OddStep(kind, noted.step, loss, norm, scale, noted.learning_rate, rows, broken)

    def _is_spike(self, loss: float) -> bool:
        if self.spike_factor is None or len(self._losses) < LEAST_REMEMBERED:
            return False
        return loss > self.spike_factor * median(self._losses)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; all steps have been read."""
        return {"losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._noted.clear()
        self._losses = deque(state["losses"], maxlen=REMEMBERED)
