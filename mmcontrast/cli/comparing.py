"""The command that compares models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmcontrast.cli.options import (
    BatchSize,
    CaptionColumns,
    Classnames,
    GroupColumn,
    ImageColumn,
    LabelColumn,
    Positives,
    Split,
    Suite,
    Templates,
    TrainData,
    TrainSplit,
    chosen,
)
from mmcontrast.cli.output import check_json_output, echo, progress, show_remark, write_json
from mmcontrast.cli.score_tables import cell, short
from mmcontrast.task_names import TASKS

MODELS_HELP = "Runs, model folders or Hub names; also open_clip's or transformers'. All are compared with the first."


def compare(
    models: Annotated[list[str], typer.Argument(metavar="A B [C ...]", help=MODELS_HELP)],
    data: Annotated[
        str | None, typer.Option(help="File, glob, folder or Hub name (default: the runs' own validation data).")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", help=f"What to measure; repeatable (default: retrieval): {', '.join(TASKS)}."),
    ] = None,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    templates: Templates = None,
    classnames: Classnames = None,
    positives: Positives = None,
    train_data: TrainData = None,
    train_split: TrainSplit = None,
    batch_size: BatchSize = 256,
    suite: Suite = None,
    outputs: Annotated[
        list[Path] | None, typer.Option("--output", help="Page to write, .html or .md; repeatable.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
) -> None:
    """Compare models on the same pictures: intervals, paired tests, who wins which class and query."""
    if len(models) < 2:
        raise typer.BadParameter("give two models at least: mmcontrast compare A B")
    for task in tasks or []:
        if task not in TASKS:
            raise typer.BadParameter(f"--task {task} is unknown; choose of {', '.join(TASKS)}")
    for page in outputs or []:
        check_json_output(page)
    check_json_output(json_file, "--json")
    given = chosen(
        suite,
        data=data,
        task=tasks,
        split=split,
        image_column=image_column,
        caption_columns=caption_columns,
        label_column=label_column,
        group_column=group_column,
        templates=templates,
        classnames=classnames,
        positives=positives,
        train_data=train_data,
        train_split=train_split,
    )
    evaluations = _evaluations(given, suite, batch_size)
    from mmcontrast import build

    with progress("compare") as advance:
        found = build.compare(models, evaluations, outputs=outputs or [], seed=seed, progress=advance, say=show_remark)
    _show(found)
    if json_file:
        write_json(found, json_file)
    for path in [*(outputs or []), *([json_file] if json_file else [])]:
        echo(f"written to {path}")


def _evaluations(given: dict[str, Any], suite: Path | None, batch_size: int) -> dict[str, Mapping[str, Any]] | None:
    """What is measured, by name; None leaves it to the runs."""
    if suite is not None:
        from mmcontrast.config import load_suite

        return {task.name: task.model_dump(exclude={"name"}) for task in load_suite(suite).tasks}
    if "data" not in given:
        if given:
            raise typer.BadParameter(f"{', '.join(given)} without --data FILE: runs are measured as their configs say")
        return None
    data = given["data"]
    name = Path(data.rpartition("://")[2]).name or data
    return {name: {"batch_size": batch_size, **given}}


def _show(found: Mapping[str, Any]) -> None:
    """A table for each task and each model but the first: values with their intervals, and the difference."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    letters = dict(enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    for place, model in enumerate(found["models"]):
        console.print(cell(f"{letters[place]}  {model}"))
    for data, tasks in found["data"].items():
        for task, metrics in tasks.items():
            title = task if len(found["data"]) == 1 else f"{data}: {task}"
            for place in range(1, len(found["models"])):
                other = letters[place]
                headings = ("metric", "A", other, f"{other} - A", "p (Holm)")
                table = Table(*headings, title=cell(title), title_justify="left")
                for metric, one in metrics.items():
                    table.add_row(cell(short(metric)), _value(one, 0), _value(one, place), *_difference(one, place))
                console.print(table)


def _value(one: Mapping[str, Any], place: int) -> str:
    value, ends = one["values"][place], one["intervals"][place]
    return "-" if value is None else f"{value:.3g}" + ("" if ends is None else f"\n{_range(ends)}")


def _difference(one: Mapping[str, Any], place: int) -> tuple[str, str]:
    moved = one["differences"][place]
    if moved is None:
        return "-", "-"
    p = moved["p_holm"]
    return f"{moved['value']:+.3g}\n{_range(moved['interval'])}", "< 0.001" if p < 0.001 else f"{p:.3f}"


def _range(ends: list[float]) -> str:
    return f"{ends[0]:.2g} to {ends[1]:.2g}" if max(map(abs, ends)) < 1 else f"{ends[0]:.3g} to {ends[1]:.3g}"
