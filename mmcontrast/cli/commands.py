"""The commands: parse, call `build`, show. Heavy modules are imported inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmcontrast.cli.clip_benchmark import check_folder, short_name, write_clip_benchmark
from mmcontrast.cli.comparing import compare
from mmcontrast.cli.converting import data_app
from mmcontrast.cli.embedding import embed
from mmcontrast.cli.exit_codes import Commands
from mmcontrast.cli.exporting import export
from mmcontrast.cli.heat_maps import heatmap
from mmcontrast.cli.inspecting import negatives
from mmcontrast.cli.merging import merge
from mmcontrast.cli.options import (
    BatchSize,
    CaptionColumns,
    Classnames,
    GroupColumn,
    ImageColumn,
    JsonOutput,
    LabelColumn,
    Model,
    Overrides,
    Positives,
    RecallK,
    RunOutput,
    Split,
    Suite,
    Templates,
    TrainData,
    TrainSplit,
    Workers,
    chosen,
)
from mmcontrast.cli.output import (
    check_json_output,
    progress,
    show_remark,
    show_run,
    show_scores,
    write_json,
)
from mmcontrast.cli.preparing import config_app, tokenizer_app
from mmcontrast.cli.reporting import Report, ReportPage, check_report
from mmcontrast.cli.searching import demo, search
from mmcontrast.task_names import Task

app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        import mmcontrast

        typer.echo(f"mmcontrast {mmcontrast.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Start here: mmcontrast quickstart")
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Image-text contrastive training on your own pairs, that knows its negatives."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(epilog="Example: mmcontrast quickstart --output runs/first --set training.epochs=2")
def quickstart(output: RunOutput = None, overrides: Overrides = None) -> None:
    """Train, evaluate and save a small model on embedded scenes, with a report; minutes on a laptop."""
    from mmcontrast import build
    from mmcontrast.config import load_config

    config = load_config(build.quickstart_config(), _with_output(overrides, output))
    # An earlier quickstart may go; any other run in the same folder may not.
    show_run(build.train(config, overwrite=build.holds_quickstart(config.output)))


@app.command(
    epilog="Example: mmcontrast train configs/flickr8k.yaml --set training.epochs=3 --output runs/short",
)
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, or a run folder to take up again.")],
    overrides: Overrides = None,
    output: RunOutput = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's latest checkpoint.")] = False,
) -> None:
    """Train a dual encoder; writes RUN/results.json, metrics.jsonl, model/ and report.html."""
    from mmcontrast.config import load_config

    checked = load_config(config, _with_output(overrides, output))  # before torch is loaded: typos show at once
    from mmcontrast import build

    show_run(build.train(checked, resume=resume))


@app.command(
    epilog="Example: mmcontrast evaluate runs/flickr8k/model --task retrieval --data val.parquet --output out.json",
)
def evaluate(
    model: Model,
    data: Annotated[str | None, typer.Option(help="File, glob, folder or Hub name of the pairs.")] = None,
    task: Annotated[Task | None, typer.Option(help="What to measure (default: retrieval).")] = None,
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
    recall_k: RecallK = None,
    batch_size: BatchSize = 256,
    workers: Workers = 2,
    suite: Suite = None,
    output: JsonOutput = None,
    intervals: Annotated[Path | None, typer.Option(help="Write the 95 % intervals as JSON to this file.")] = None,
    report: Report = None,
    clip_benchmark: Annotated[
        Path | None, typer.Option("--clip-benchmark-json", help="Folder for JSON that `clip_benchmark build` reads.")
    ] = None,
) -> None:
    """Measure retrieval, zero-shot classification, probes and more; JSON is {task: {metric: value}}."""
    check_json_output(output)
    check_json_output(intervals, "--intervals")
    check_report(report)
    check_folder(clip_benchmark)
    options: dict[str, Any] = {
        "data": data,
        "task": task,
        "split": split,
        "image_column": image_column,
        "caption_columns": caption_columns or None,
        "label_column": label_column,
        "group_column": group_column,
        "templates": templates,
        "classnames": classnames,
        "positives": positives,
        "train_data": train_data,
        "train_split": train_split,
        "ks": recall_k or None,
    }
    chosen(suite, **options)  # refuses what stands beside a suite
    if suite is not None:
        _evaluate_suite(model, suite, output, intervals, report, clip_benchmark, workers)
        return
    if data is None:
        raise typer.BadParameter("give --data FILE, or --suite FILE")
    from mmcontrast import build

    options |= {"task": task or "retrieval", "positives": positives or "id"}
    shared, page = build.SharedWork(), ReportPage(report, model, batch_size=batch_size)
    with progress("evaluate") as advance:
        found = build.run_evaluation(
            model, batch_size=batch_size, workers=workers, progress=advance, say=show_remark, shared=shared, **options
        )
    for name, metrics in found.results.items():
        write_clip_benchmark(
            clip_benchmark, name, metrics, dataset=short_name(data), model=model, positives=positives or "id"
        )
    ranges = build.scored_intervals(found)
    show_scores(found.results, output, ranges)  # before the page: what is measured is kept if that fails
    if intervals:
        write_json(build.interval_document(ranges), intervals)
    page.add(found, shared, ranges)
    page.write()


def _evaluate_suite(
    model: str,
    path: Path,
    output: Path | None,
    intervals: Path | None,
    report: Path | None,
    clip_benchmark: Path | None,
    workers: int,
) -> None:
    from mmcontrast.config import load_suite

    suite = load_suite(path)
    from mmcontrast import build

    results: dict[str, Mapping[str, float | None]] = {}
    ranges: dict[str, dict[str, tuple[float, float] | None]] = {}
    shared = build.SharedWork()  # the model is loaded once, and data that follows itself is embedded once
    page = ReportPage(report, model, expected=len(suite.tasks))
    for task in suite.tasks:
        options = task.model_dump(exclude={"name"})
        with progress(task.name) as advance:
            found = build.run_evaluation(
                model, workers=workers, progress=advance, say=show_remark, shared=shared, **options
            )
        results[task.name] = found.results[task.task]
        found_ranges = build.scored_intervals(found)
        ranges[task.name] = found_ranges[task.task]
        write_clip_benchmark(
            clip_benchmark, task.task, results[task.name], dataset=task.name, model=model, positives=task.positives
        )
        if output:  # what is measured is kept if a later task fails
            write_json(results, output)
        if intervals:
            write_json(build.interval_document(ranges), intervals)
        page.add(found, shared, found_ranges, name=task.name)
    show_scores(results, output, ranges)
    page.write()


app.command(epilog="Example: mmcontrast compare runs/first runs/second --output page.html")(compare)
app.command(epilog="Example: mmcontrast embed runs/flickr8k/model photos/ --output features")(embed)
app.command(epilog="Example: mmcontrast negatives train.csv --model runs/flickr8k/model --output negatives.html")(
    negatives
)
app.command(epilog="Example: mmcontrast export runs/flickr8k/model --format all --output exported")(export)
app.command(epilog='Example: mmcontrast heatmap runs/vit/model dog.jpg "a dog" "grass" --output map.html')(heatmap)
app.command(epilog="Example: mmcontrast merge start tuned/model --sweep 0,0.1,...,1 --data val.csv --output mix")(merge)
app.command(epilog='Example: mmcontrast search runs/flickr8k/model photos/ "a red bus" --output found.html')(search)
app.command(epilog="Example: mmcontrast demo runs/flickr8k/model photos/")(demo)


def _with_output(overrides: list[str] | None, output: Path | None) -> list[str]:
    return [*(overrides or []), *([f"output={json.dumps(str(output))}"] if output else [])]
