"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
Templates = Annotated[str | None, typer.Option(help="File of prompts with {} for the class name.")]
Classnames = Annotated[str | None, typer.Option(help="File with the spelling of the classes.")]
Positives = Annotated[
    Literal["id", "caption", "group", "label"] | None, typer.Option(help="What counts as a hit (default: id).")
]
TrainData = Annotated[str | None, typer.Option(help="Labelled pictures that a probe learns from.")]
TrainSplit = Annotated[str | None, typer.Option(help="Split of --train-data.")]
Suite = Annotated[Path | None, typer.Option(help="YAML list of evaluations, instead of --data.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures or captions embedded at a time.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode pictures; 0 decodes in this one.")]
RecallK = Annotated[
    list[int] | None,
    typer.Option("--recall-k", min=1, help="k of a recall; repeatable (default: 1, 5 and 10, where they exist)."),
]
CardName = Annotated[str | None, typer.Option("--name", help="Name of the model on its card (default: the run's).")]
CardLicence = Annotated[
    str | None, typer.Option("--license", help="Licence of the model on its card, such as apache-2.0.")
]
CardDatasets = Annotated[
    list[str] | None,
    typer.Option("--dataset", metavar="NAME[=LICENCE]", help="Training data on the card, and its licence; repeatable."),
]
CardEvalDataset = Annotated[
    str | None, typer.Option(metavar="OWNER/NAME", help="Validation data on the Hub, which the results are tied to.")
]
CardLanguages = Annotated[
    list[str] | None,
    typer.Option("--language", metavar="CODE", help="Language of the captions: en, de...; repeatable."),
]
CardPictures = Annotated[
    bool | None,
    typer.Option(
        "--pictures/--no-pictures",
        help="Show some of the data's pictures on the card: only where you may (default: of synthetic scenes only).",
    ),
]
CardWatts = Annotated[
    float | None, typer.Option(help="Draw of the whole machine in training, to estimate energy on the card.")
]


def chosen(suite: Path | None, **options: Any) -> dict[str, Any]:
    """Those of the options that are given; beside a suite, which says what to do, none may be."""
    given = {key: value for key, value in options.items() if value is not None and value != []}
    if suite is not None and given:
        raise typer.BadParameter(f"--suite says what to do: leave out {', '.join(given)}")
    return given
