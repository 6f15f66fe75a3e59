"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a config key; repeatable.")
]
RunOutput = Annotated[Path | None, typer.Option("--output", help="Folder of the run, instead of the config's.")]
JsonOutput = Annotated[Path | None, typer.Option("--output", help="Write JSON to this file.")]
MODEL_HELP = "Model folder, such as RUN/model, or Hub name; also open_clip's, transformers' or sentence-transformers'."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Split = Annotated[str | None, typer.Option(help="Split of a Hub or saved data set.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the pictures; guessed if left out.")]
CaptionColumns = Annotated[
    list[str] | None, typer.Option("--caption-column", help="Column of captions; repeatable; guessed if left out.")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of class labels.")]
GroupColumn = Annotated[str | None, typer.Option(help="Column of groups that belong together.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures or captions embedded at a time.")]
