"""What commands show: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmcontrast.cli.score_tables import Ranges, Scores, cell, score_tables
from mmcontrast.errors import UNPRINTABLE, MMContrastError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from mmcontrast.build import Results, Sweep
    from mmcontrast.export.formats import Exported
    from mmcontrast.export.hub import Pushed


def echo(text: str, *, err: bool = False) -> None:
    """One line on stdout or stderr; names of files and columns in it cannot command the terminal."""
    typer.echo(printable(text), err=err)


def as_json_text(values: Any) -> str:
    """JSON with a final newline; NaN is refused, since other readers do not know it.

    Characters that a terminal would obey are escaped as JSON has it.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def check_json_output(path: Path | None, option: str = "--output") -> None:
    """Before the work and not after it: whether the file of an option can be written."""
    if path is None:
        return
    if path.is_dir():
        raise MMContrastError(f"{option}: {path} is a folder; name a file in it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(path if path.exists() else above, os.W_OK):
        raise MMContrastError(f"{option}: cannot write {path}")


def write_json(values: Any, path: Path) -> None:
    """Write JSON, and the folders above the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json_text(values), encoding="utf-8")


def show_run(run: Results) -> None:
    """The final scores and where everything lies, once however many processes ran; the JSON is results.json."""
    if os.environ.get("RANK", "0") != "0":
        return
    _table(run.results)
    echo(f"results: {run.run_dir}/results.json  model: {run.run_dir}/model  report: {run.run_dir}/report.html")


def show_scores(results: Scores, output: Path | None, ranges: Ranges | None = None) -> None:
    """A table for people, with intervals, and JSON for programs: in the file, or alone on stdout."""
    _table(results, ranges, stderr=output is None)
    if output is None:
        typer.echo(as_json_text(results), nl=False)
    else:
        write_json(results, output)
        echo(f"results: {output}")


def show_negatives(found: Mapping[str, Any], page: Path, json_file: Path | None) -> None:
    """The numbers and the first suspects for people, the JSON in its file."""
    from rich.console import Console
    from rich.table import Table

    shares = Table("of all pairs of different rows", "share", "in a batch of 256")
    for name, key in (
        ("known to match (same caption or group)", "known_share"),
        ("believed to match, though nothing says so", "believed_share"),
        (printable(f"same {found['truth']}, not known to match"), "true_share"),
    ):
        if (share := found[key]) is not None:
            share *= 1 if key == "known_share" else 1 - found["known_share"]
            shares.add_row(name, f"{100 * share:.2f} %", f"{255 * share:.1f}")
    pairs = Table("p" if found["calibrated"] else "cosine", "caption", "and the other's caption")
    for pair in found["false_negatives"][:5]:
        value = pair["probability"] if found["calibrated"] else pair["cosine"]
        pairs.add_row(f"{value:.2f}", cell(pair["caption"]), cell(pair["other_caption"]))
    console = Console()
    console.print(shares)
    if pairs.row_count:
        console.print(pairs)
    if json_file is not None:
        write_json(found, json_file)
    echo(f"page: {page}" + (f"  results: {json_file}" if json_file else ""))


def show_export(exported: Exported) -> None:
    """How far each library's own results are from ours, and what was left out."""
    for name, found in exported.agreements.items():
        differences = f"image {found.image:.1e}  text {found.text:.1e}  zero-shot {found.zero_shot:.1e}"
        echo(f"{name}: greatest difference of features and scores: {differences}")
        if found.rewritten:
            show_remark(f"{name} rewrites {found.rewritten} of the captions (curly quotes, say); they were left out")
        if found.squared:
            echo(
                f"{name} crops {found.squared} of the pictures a pixel further to the left or top: compared as squares"
            )
    for name, reason in exported.left_out.items():
        show_remark(f"{name} left out: {reason}")
    echo(f"written to {exported.folder}")


def show_push(pushed: Pushed) -> None:
    """What is, or would be, on the Hub, file by file."""
    where = f"{pushed.repo} ({pushed.revision})"
    new = f"; the {pushed.creates} is new" if pushed.creates else ""
    did = "nothing to push" if pushed.plan.empty else "would push" if pushed.commit is None else "pushed"
    typer.echo(f"{did} to {where}{new}")
    for line in pushed.plan.lines():
        typer.echo(line)
    if pushed.commit is not None:
        typer.echo(f"published: {pushed.url}  commit {pushed.commit}")


def show_sweep(sweep: Sweep, folder: Path) -> None:
    """One line for each alpha with the metrics that stand for all, and what was chosen by what."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("alpha", *(escape(printable(name)) for name in sweep.curves))
    for number, alpha in enumerate(sweep.alphas):
        mark = " *" if sweep.chosen and sweep.chosen["alpha"] == alpha else ""
        table.add_row(f"{alpha:g}{mark}", *(f"{values[number]:.4g}" for values in sweep.curves.values()))
    Console().print(table)
    if chosen := sweep.chosen:
        line = f"chosen: alpha {chosen['alpha']:g}, by {chosen['metric']} = {chosen['value']:.4g} on {chosen['data']}"
        echo(f"{line}; report its scores on other data than these")
        echo(f"model: {folder}/model")
    echo(f"results: {folder}/sweep.json  plot: {folder}/sweep.png")


def show_remark(line: str) -> None:
    """What the reader of numbers should know, on stderr: stdout may be JSON."""
    echo(line, err=True)


def show_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """What was made, and where."""
    echo("  ".join(f"{key} {value}" for key, value in summary.items()))
    echo(f"written to {folder}")


class Advance:
    """Counts what is done: on a bar, or in a line now and then where there is no terminal and an end is known."""

    LINE_EVERY = 30.0

    def __init__(self, bar: Progress, task: TaskID, name: str, console: Console) -> None:
        self._bar, self._task, self._name, self._console = bar, task, name, console
        self._done, self._total = 0, 0
        self._start = self._last = time.monotonic()

    def expect(self, total: int) -> None:
        """There will be so many in all; shows what is left, and for how long."""
        self._total, self._start = total, time.monotonic()
        self._bar.update(self._task, total=total)

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bar.advance(self._task, count)
        now = time.monotonic()
        if self._total and not self._console.is_terminal and now - self._last > self.LINE_EVERY:
            self._last = now
            left = max(0, self._total - self._done) * (now - self._start) / max(1, self._done) / 60
            line = f"{self._name} {self._done}/{self._total}  eta {left:.1f} min"
            self._console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str) -> Iterator[Advance]:
    """Progress on stderr while something runs; yields what is told of it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:.0f}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    name = escape(printable(name))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Advance(bar, bar.add_task(name, total=None), name, console)


def _table(results: Scores, ranges: Ranges | None = None, *, stderr: bool = False) -> None:
    from rich.console import Console

    console = Console(stderr=stderr)
    for table in score_tables(results, ranges):
        console.print(table)
