"""The commands: parse, call `build`, show. Heavy modules are imported inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmcontrast.cli.exit_codes import Commands
from mmcontrast.cli.output import (
    as_json_text,
    check_json_output,
    progress,
    show_remark,
    show_run,
    show_scores,
    show_summary,
    write_json,
)

Task = Literal["retrieval", "zero_shot"]
Positives = Literal["id", "caption", "group", "label"]
app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
tokenizer_app = typer.Typer(help="Tokenizers for your own captions.")
config_app = typer.Typer(help="Look at configs before anything runs.")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(config_app, name="config")

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a config key; repeatable.")
]
RunOutput = Annotated[Path | None, typer.Option("--output", help="Folder of the run, instead of the config's.")]
JsonOutput = Annotated[Path | None, typer.Option("--output", help="Write JSON to this file.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, such as RUN/model, or Hub name.")]
Split = Annotated[str | None, typer.Option(help="Split of a Hub or saved data set.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the pictures; guessed if left out.")]
CaptionColumns = Annotated[
    list[str] | None, typer.Option("--caption-column", help="Column of captions; repeatable; guessed if left out.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures or captions embedded at a time.")]


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
    label_column: Annotated[str | None, typer.Option(help="Column of class labels.")] = None,
    group_column: Annotated[str | None, typer.Option(help="Column of groups that belong together.")] = None,
    templates: Annotated[str | None, typer.Option(help="File of prompts with {} for the class name.")] = None,
    classnames: Annotated[str | None, typer.Option(help="File with the spelling of the classes.")] = None,
    positives: Annotated[Positives | None, typer.Option(help="What counts as a hit (default: id).")] = None,
    batch_size: BatchSize = 256,
    suite: Annotated[Path | None, typer.Option(help="YAML list of evaluations, instead of --data.")] = None,
    output: JsonOutput = None,
) -> None:
    """Measure retrieval or zero-shot classification; JSON is {task: {metric: value}}."""
    check_json_output(output)
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
    }
    given = {key: value for key, value in options.items() if value is not None}
    if suite is not None:
        if given:
            raise typer.BadParameter(f"--suite says what to do: leave out {', '.join(given)}")
        _evaluate_suite(model, suite, output)
        return
    if data is None:
        raise typer.BadParameter("give --data FILE, or --suite FILE")
    from mmcontrast import build

    options |= {"task": task or "retrieval", "positives": positives or "id"}
    with progress("evaluate") as advance:
        results = build.evaluate(model, batch_size=batch_size, progress=advance, say=show_remark, **options)
    show_scores(results, output)


def _evaluate_suite(model: str, path: Path, output: Path | None) -> None:
    from mmcontrast.config import load_suite

    suite = load_suite(path)
    from mmcontrast import build

    results: dict[str, Mapping[str, float | None]] = {}
    for task in suite.tasks:
        with progress(task.name) as advance:
            scores = build.evaluate(model, progress=advance, say=show_remark, **task.model_dump(exclude={"name"}))
        results[task.name] = scores[task.task]
        if output:  # what is measured is kept if a later task fails
            write_json(results, output)
    show_scores(results, output)


@app.command(epilog="Example: mmcontrast embed runs/flickr8k/model photos/ --output features")
def embed(
    model: Model,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, glob, folder or Hub name of the pairs.")],
    output: Annotated[
        Path, typer.Option(help="Folder for image_features.npy, text_features.npy, rows.jsonl and embed.json.")
    ],
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    batch_size: BatchSize = 256,
) -> None:
    """Save L2-normalised features of all pictures and captions."""
    from mmcontrast import build

    with progress("embed") as advance:
        summary = build.embed(
            model,
            data,
            output,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns or None,
            batch_size=batch_size,
            progress=advance,
        )
    show_summary(summary, output)


@tokenizer_app.command(
    "train", epilog="Example: mmcontrast tokenizer train train.parquet --vocab-size 8000 --output tokenizer"
)
def train_tokenizer(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, glob, folder or Hub name with captions.")],
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(min=32, help="Number of pieces.")] = 4000,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
) -> None:
    """Train a SentencePiece tokenizer on captions; use it by model.tokenizer.name."""
    from mmcontrast import build

    summary = build.train_tokenizer(
        data, output, vocab_size, split=split, image_column=image_column, caption_columns=caption_columns or None
    )
    write_json(summary, output / "summary.json")
    show_summary(summary, output)


@config_app.command("check", epilog="Example: mmcontrast config check my.yaml --set training.epochs=3")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file.")],
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
    output: JsonOutput = None,
) -> None:
    """Check a config without loading anything, and print it with every default filled in."""
    from mmcontrast.config import dump_config, load_config

    config = load_config(file, list(overrides or []))
    values = config.model_dump(mode="json")
    if output:
        write_json(values, output)
    typer.echo(as_json_text(values) if as_json else dump_config(config), nl=False)


@config_app.command("schema", epilog="Example: mmcontrast config schema --output mmcontrast.schema.json")
def show_schema(output: JsonOutput = None) -> None:
    """Print the JSON schema of configs, which editors complete and check by."""
    from mmcontrast.config import config_schema

    if output:
        write_json(config_schema(), output)
    else:
        typer.echo(as_json_text(config_schema()), nl=False)


def _with_output(overrides: list[str] | None, output: Path | None) -> list[str]:
    return [*(overrides or []), *([f"output={json.dumps(str(output))}"] if output else [])]
