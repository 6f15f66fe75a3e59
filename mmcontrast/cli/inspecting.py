"""The command that looks for false negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcontrast.cli.options import MODEL_HELP, BatchSize, CaptionColumns, GroupColumn, ImageColumn, LabelColumn, Split
from mmcontrast.cli.output import check_json_output, progress, show_negatives, show_remark


def negatives(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, glob, folder or Hub name of the pairs.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    output: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("negatives.html"),
    rows: Annotated[int, typer.Option(min=32, help="Look at so many pairs at most, drawn at random.")] = 2000,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    batch_size: BatchSize = 256,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write numbers and pairs to this file.")] = None,
) -> None:
    """Show which pairs of a data set training would push apart wrongly; trains nothing."""
    check_json_output(output)
    check_json_output(json_file, "--json")
    from mmcontrast import build

    with progress("negatives") as advance:
        found = build.inspect_negatives(
            model,
            data,
            output,
            rows=rows,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns or None,
            label_column=label_column,
            group_column=group_column,
            batch_size=batch_size,
            seed=seed,
            progress=advance,
            say=show_remark,
        )
    show_negatives(found, output, json_file)
