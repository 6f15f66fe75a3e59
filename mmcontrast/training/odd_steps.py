"""bad_steps.jsonl: steps that were skipped and losses that jumped, with the rows of their batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mmcontrast import distributed
from mmcontrast.errors import TrainingError
from mmcontrast.training.lines import LineFile

NOT_FINITE, SPIKE = "not finite", "spike"
SHOWN_ROWS = 8
SHOWN_SPIKES = 5


@dataclass(frozen=True)
class OddStep:
    """A step that was skipped ("not finite"), or whose loss is far above those before it ("spike").

    Attributes:
        loss, grad_norm, logit_scale, lr: of the step, before it was taken.
        rows: of the global batch, by their numbers in the training data.
        broken: of them, those whose features are not finite.
    """

    kind: str
    global_step: int
    loss: float
    grad_norm: float
    logit_scale: float
    lr: float
    rows: list[int]
    broken: list[int]


class OddStepLog:
    """Lists odd steps, and stops the run when too many in a row had to be skipped.

    Args:
        path: of `bad_steps.jsonl`, made when there is something to say.
        max_bad: steps in a row.
        precision: of the towers, for the diagnosis.
    """

    def __init__(self, path: Path, max_bad: int, precision: str) -> None:
        self.file, self.max_bad, self.precision = LineFile(path), max_bad, precision
        self._spikes = 0

    def add(self, odd: OddStep, warn: Callable[[str], None]) -> None:
        """A line, by the first rank (NaN and infinity become text, since JSON knows neither), and a warning."""
        if odd.kind == NOT_FINITE:
            warn(f"step {odd.global_step} was skipped: its loss or gradient is not finite ({blame(odd)})")
        else:
            self._spikes += 1
            if self._spikes <= SHOWN_SPIKES:
                last = f"; further ones are only listed in {self.file.path}" if self._spikes == SHOWN_SPIKES else ""
                warn(f"the loss jumped to {odd.loss:.3g} at step {odd.global_step}, with {listed(odd.rows)}{last}")
        if distributed.rank() == 0:
            values = asdict(odd).items()
            clean = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values}
            self.file.append([clean])

    def rewind(self, step: int) -> None:
        """Drop lines after `step`: a resumed run writes them again."""
        if distributed.rank() == 0:
            self.file.keep(lambda line: bool(line["global_step"] <= step))

    def check(self, odd: OddStep, in_a_row: int) -> None:
        """Raise TrainingError, with a diagnosis, where `odd` is the last of too many in a row."""
        if in_a_row < self.max_bad:
            return
        raise TrainingError(
            f"{in_a_row} steps in a row, up to step {odd.global_step}, had a loss or gradient that is not finite and "
            f"were skipped ({blame(odd)}; loss {odd.loss:g}, gradient norm {odd.grad_norm:g}, learning rate "
            f"{odd.lr:g}, logit scale {odd.logit_scale:g}, precision {self.precision}): {self._mend(odd)}; all rows "
            f"are in {self.file.path}, and the weights are those before"
        )

    def _mend(self, odd: OddStep) -> str:
        some = 0 < len(odd.broken) < len(odd.rows)
        if some:
            return "look at these rows, or lower training.learning_rate"
        return "lower training.learning_rate" + ("" if self.precision == "fp32" else ", or use training.precision fp32")


def blame(odd: OddStep) -> str:
    """Which rows a bad step is due to, as far as their features tell."""
    if not odd.broken:
        return f"all features of its {len(odd.rows)} rows are finite"
    if len(odd.broken) == len(odd.rows):
        return f"no features of its {len(odd.rows)} rows are finite, {listed(odd.rows)} among them"
    return f"not finite are the features of {listed(odd.broken)}"


def listed(rows: list[int]) -> str:
    """The first few row numbers."""
    more = len(rows) - SHOWN_ROWS
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    return f"row{'s' if len(rows) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")
