"""Commands before a run: tokenizers and configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcontrast.cli.options import CaptionColumns, ImageColumn, JsonOutput, Overrides, Split
from mmcontrast.cli.output import as_json_text, show_summary, write_json

tokenizer_app = typer.Typer(help="Tokenizers for your own captions.")
config_app = typer.Typer(help="Look at configs before anything runs.")


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
