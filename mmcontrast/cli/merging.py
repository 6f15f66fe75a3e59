"""The command that averages models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmcontrast.cli.options import CaptionColumns, GroupColumn, ImageColumn, LabelColumn, Split
from mmcontrast.cli.output import progress, show_remark, show_summary, show_sweep


def merge(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL ...", help="Model folders or Hub names.")],
    output: Annotated[Path, typer.Option(help="Folder of the merged model; with --sweep, of table, plot and model.")],
    alpha: Annotated[float | None, typer.Option(help="Share of the second model, 0 to 1 (WiSE-FT).")] = None,
    weights: Annotated[
        list[float] | None, typer.Option("--weight", help="One for each model, in their order; all alike if left out.")
    ] = None,
    alphas: Annotated[
        str | None, typer.Option("--sweep", metavar="0,0.1,...", help="Evaluate these alphas of two models.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Pairs to evaluate a sweep on; repeat for a second data set.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="retrieval (default) or zero_shot; repeatable.")
    ] = None,
    suite: Annotated[Path | None, typer.Option(help="YAML list of evaluations, instead of --data.")] = None,
    choose: Annotated[
        str | None, typer.Option(metavar="METRIC", help="Save the mixture where this is highest, say mean_recall.")
    ] = None,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
) -> None:
    """Average the weights of models of one architecture; measure mixtures of two of them."""
    columns = {
        "split": split,
        "image_column": image_column,
        "caption_columns": caption_columns or None,
        "label_column": label_column,
        "group_column": group_column,
    }
    if alphas is None:
        if given := [name for name, value in {"data": data, "task": tasks, "suite": suite, "choose": choose}.items()
                     if value]:  # fmt: skip
            raise typer.BadParameter(f"--{given[0]} goes with --sweep")
        from mmcontrast import build

        show_summary(build.merge(models, output, alpha=alpha, weights=weights or None, say=show_remark), output)
        return
    if alpha is not None or weights:
        raise typer.BadParameter("--sweep tries alphas by itself: leave out --alpha and --weight")
    if len(models) != 2:
        raise typer.BadParameter(f"--sweep mixes two models, not {len(models)}")
    steps = _numbers(alphas)
    evaluations = _evaluations(data or [], tasks or ["retrieval"], suite, columns)
    from mmcontrast import build

    with progress("merge") as advance:
        found = build.sweep(
            models[0], models[1], steps, evaluations, output, choose=choose, progress=advance, say=show_remark
        )
    show_sweep(found, output)


def _numbers(text: str) -> list[float]:
    """0,0.5,1 as numbers; 0,0.1,...,1 is filled up with equal steps."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        if "..." in parts:
            first, second, dots, last = parts
            start, step, stop = float(first), float(second) - float(first), float(last)
            if dots != "..." or step <= 0:
                raise ValueError
            return [round(start + step * i, 9) for i in range(int((stop - start) / step + 1e-6) + 1)]
        return [float(part) for part in parts]
    except ValueError:
        raise typer.BadParameter(f"--sweep {text}: give numbers, as in 0,0.5,1 or 0,0.1,...,1") from None


def _evaluations(
    data: list[str], tasks: list[str], suite: Path | None, columns: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """What is measured, by name: the entries of the suite, or all tasks on each of the data sets."""
    if suite is not None:
        if data:
            raise typer.BadParameter("--suite says what to do: leave out --data")
        from mmcontrast.config import load_suite

        return {task.name: task.model_dump(exclude={"name"}) for task in load_suite(suite).tasks}
    if not data:
        raise typer.BadParameter("--sweep needs --data FILE, or --suite FILE, to measure on")
    short = ["/".join(Path(path.rpartition("://")[2]).with_suffix("").parts[-2:]) for path in data]
    names = short if len(set(short)) == len(data) else data
    return {name: {"data": path, "task": tasks, **columns} for name, path in zip(names, data, strict=True)}
