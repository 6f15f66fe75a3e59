"""What commands show: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmcontrast.errors import MMContrastError

if TYPE_CHECKING:
    from mmcontrast.build import Results
    from mmcontrast.export.formats import Exported

Scores = Mapping[str, Mapping[str, float | None]]


def as_json_text(values: Any) -> str:
    """JSON with a final newline; NaN is refused, since other readers do not know it."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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
    typer.echo(f"results: {run.run_dir}/results.json  model: {run.run_dir}/model  report: {run.run_dir}/report.html")


def show_scores(results: Scores, output: Path | None) -> None:
    """A table for people and JSON for programs: in the file, or alone on stdout."""
    _table(results, stderr=output is None)
    if output is None:
        typer.echo(as_json_text(results), nl=False)
    else:
        write_json(results, output)
        typer.echo(f"results: {output}")


def show_negatives(found: Mapping[str, Any], page: Path, json_file: Path | None) -> None:
    """The numbers and the first suspects for people, the JSON in its file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shares = Table("of all pairs of different rows", "share", "in a batch of 256")
    for name, key in (
        ("known to match (same caption or group)", "known_share"),
        ("believed to match, though nothing says so", "believed_share"),
        (f"same {found['truth']}, not known to match", "true_share"),
    ):
        if (share := found[key]) is not None:
            share *= 1 if key == "known_share" else 1 - found["known_share"]
            shares.add_row(name, f"{100 * share:.2f} %", f"{255 * share:.1f}")
    pairs = Table("p" if found["calibrated"] else "cosine", "caption", "and the other's caption")
    for pair in found["false_negatives"][:5]:
        value = pair["probability"] if found["calibrated"] else pair["cosine"]
        pairs.add_row(f"{value:.2f}", Text(pair["caption"]), Text(pair["other_caption"]))
    console = Console()
    console.print(shares)
    if pairs.row_count:
        console.print(pairs)
    if json_file is not None:
        write_json(found, json_file)
    typer.echo(f"page: {page}" + (f"  results: {json_file}" if json_file else ""))


def show_export(exported: Exported) -> None:
    """How far each library's own results are from ours, and what was left out."""
    for name, found in exported.agreements.items():
        differences = f"image {found.image:.1e}  text {found.text:.1e}  zero-shot {found.zero_shot:.1e}"
        typer.echo(f"{name}: greatest difference of features and scores: {differences}")
    for name, reason in exported.left_out.items():
        show_remark(f"{name} left out: {reason}")
    typer.echo(f"written to {exported.folder}")


def show_remark(line: str) -> None:
    """What the reader of numbers should know, on stderr: stdout may be JSON."""
    typer.echo(line, err=True)


def show_summary(summary: Mapping[str, Any], folder: Path) -> None:
    """What was made, and where."""
    typer.echo("  ".join(f"{key} {value}" for key, value in summary.items()))
    typer.echo(f"written to {folder}")


@contextmanager
def progress(name: str) -> Iterator[Callable[[int], None]]:
    """A count on stderr while something runs, only on a terminal; yields the function that adds to it."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:.0f}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda count: bar.advance(task, count)


def _table(results: Scores, *, stderr: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", "value")
    for task, metrics in results.items():
        for metric, value in metrics.items():
            table.add_row(task, metric, "-" if value is None else f"{value:.4g}")
        table.add_section()
    Console(stderr=stderr).print(table)
