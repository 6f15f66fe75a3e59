"""What a run writes down while it trains: metrics.jsonl, bad_rows.jsonl, trackers and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta

from mmcontrast import distributed
from mmcontrast.errors import DataError, printable
from mmcontrast.training.lines import LineFile
from mmcontrast.types import BadRow

_MIN_ROWS_FOR_LIMIT = 100
LEAST_SHARE_OF_NEGATIVES = 0.5
"""Of a batch's pairs, that should count as negatives; with fewer the weights may have collapsed."""

_SHOWN = ("image_recall@1", "image_recall@10", "text_recall@1", "text_recall@10", "map@r", "acc1")


def few_negatives(line: Mapping[str, Any], batch_size: int) -> str | None:
    """What to say of a logged line in which fewer than half of a batch's pairs count as negatives, or None."""
    effective = line.get("effective_negatives")
    if effective is None or not effective < LEAST_SHARE_OF_NEGATIVES * batch_size:
        return None
    return (
        f"only {effective:.0f} of a batch's {batch_size} pairs count as negatives (effective number at step "
        f"{line['global_step']}): look at rules, prior and floor in the section negatives, and whether many captions "
        "or groups are the same"
    )


class MetricsLog:
    """Appends one JSON object a line, only on the first rank; also feeds Accelerate's trackers."""

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self.file = LineFile(path)
        self.accelerator = accelerator

    def rewind(self, step: int) -> None:
        """Drop lines after `step`: a resumed run writes them again."""
        if distributed.rank() == 0:
            self.file.keep(lambda line: bool(line["global_step"] <= step))

    def write(self, values: dict[str, Any]) -> None:
        """One line; NaN and infinity become null, since JSON knows neither."""
        step = values["global_step"]
        self.accelerator.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=step)
        if distributed.rank() == 0:
            self.file.append(
                [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}]
            )


class BadRowLog:
    """Lists each bad row once and stops the run when there are too many.

    Args:
        path: of `bad_rows.jsonl`.
        max_share: of the rows seen so far.
        num_rows: of the training data, or None for a stream.
    """

    def __init__(self, path: Path, max_share: float, num_rows: int | None) -> None:
        self.file = LineFile(path)
        self.max_share = max_share
        self.num_rows = num_rows
        self.left_out: set[tuple[str, int]] = set()
        if distributed.rank() == 0:
            self.file.keep(lambda _: True)  # but for a line that a crash cut off
        distributed.barrier()
        rows = [(line.get("source"), line.get("row")) for line in self.file.read()]
        self.known = {(name, row) for name, row in rows if isinstance(name, str) and isinstance(row, int)}

    def leave_out(self, rows: Sequence[BadRow]) -> None:
        """List rows that were known to be bad before training; the steps never see them, so they count in no share."""
        self.left_out = {(row.source, row.row) for row in rows}
        if distributed.rank() == 0:
            self._list([row for row in rows if (row.source, row.row) not in self.known])
        self.known |= self.left_out

    def add(self, rows: Iterable[BadRow], samples_seen: int) -> None:
        """Note the bad rows of all ranks; every rank calls this.

        Raises:
            DataError: their share is over the limit.
        """
        fresh = {(row.source, row.row): row for row in distributed.gather_lists(list(rows))}
        fresh = {key: row for key, row in fresh.items() if key not in self.known}
        self.known.update(fresh)
        if distributed.rank() == 0:
            self._list(fresh.values())
        bad = len(self.known - self.left_out)
        seen = samples_seen if self.num_rows is None else min(samples_seen, self.num_rows)
        if seen >= min(_MIN_ROWS_FOR_LIMIT, self.num_rows or _MIN_ROWS_FOR_LIMIT) and bad > self.max_share * seen:
            raise DataError(
                f"{bad} of the {seen} rows seen so far are bad, over the limit of {self.max_share:.0%}: "
                f"see {self.file.path}, mend the data or raise data.max_bad_row_share"
            )

    def _list(self, rows: Iterable[BadRow]) -> None:
        self.file.append(asdict(row) for row in rows)


class ProgressDisplay:
    """A bar with loss, pairs/s and ETA on a terminal; plain lines elsewhere. Only the first rank shows it."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self.console = console
        self.visible = distributed.rank() == 0
        self.live = self.visible and console.is_terminal
        self.bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            Eta(),
            console=console,
            disable=not self.live,
        )
        self.total_steps = total_steps
        self._warned: set[str] = set()
        self.task: TaskID = self.bar.add_task("train", total=total_steps, status="")

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, global_step: int) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=global_step)

    def values(self, values: dict[str, Any]) -> None:
        """Show a logged step."""
        rate = values["pairs_per_second"]
        cut = values["truncated_share"]
        status = f"loss {values['loss']:.3f}  {rate:,.0f} pairs/s" + (f"  {cut:.1%} captions cut" if cut else "")
        self.bar.update(self.task, status=status)
        if self.visible and not self.live:
            left = (self.total_steps - values["global_step"]) * values["seconds_per_step"]
            self.console.print(
                f"step {values['global_step']}/{self.total_steps}  {status}  eta {left / 60:.1f} min",
                highlight=False,
                soft_wrap=True,
            )

    def warn(self, message: str) -> None:
        """A line about something that goes on."""
        if self.visible:
            line = f"[yellow]warning:[/] {escape(printable(message))}"
            self.console.print(line, emoji=False, highlight=False, soft_wrap=True)

    def warn_once(self, kind: str, message: str) -> None:
        """The same, the first time of its kind only."""
        if kind not in self._warned:
            self.warn(message)
        self._warned.add(kind)

    def evaluation(self, step: int, metrics: dict[str, float | None], watched: str, best: bool) -> None:
        """One line an evaluation: the watched metric first, then what people look at."""
        if self.visible:
            names = [watched, *(name for name in metrics if name.endswith(_SHOWN) and name != watched)]
            values = ((name.partition(".")[2], metrics[name]) for name in names)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in values if value is not None)
            mark = " [green](best)[/]" if best else ""
            self.console.print(f"[cyan]validation at step {step}[/]{mark}  {shown}", highlight=False, soft_wrap=True)
