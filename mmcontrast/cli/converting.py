"""Commands that write data sets for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmcontrast.cli.options import CaptionColumns, ImageColumn, LabelColumn, Split
from mmcontrast.cli.output import progress, show_remark, show_summary

data_app = typer.Typer(help="Data sets for other tools.")
DataKind = Literal["retrieval", "classification", "multilabel"]


@data_app.command(
    "to-webdataset",
    epilog="Example: mmcontrast data to-webdataset val.parquet wds/cifar10 --kind classification",
)
def to_webdataset(
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, glob, folder or Hub name of the pairs.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder, new or with other splits of this data.")],
    kind: Annotated[
        DataKind | None,
        typer.Option(help="What it is to measure (default: retrieval, without captions: classification)."),
    ] = None,
    name: Annotated[str, typer.Option("--as", metavar="SPLIT", help="Name of the split that is written.")] = "test",
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    label_column: LabelColumn = None,
    templates: Annotated[str | None, typer.Option(help="File of prompts with {c} for the class name.")] = None,
    classnames: Annotated[str | None, typer.Option(help="File with the names of all classes in their order.")] = None,
    shard_rows: Annotated[
        int, typer.Option(min=1, help="Pictures of a tar at most; there are 8 tars at least.")
    ] = 10_000,
) -> None:
    """Write WebDataset tars as CLIP_benchmark reads them; the pictures' bytes stay as they are."""
    from mmcontrast import build

    with progress("to-webdataset") as advance:
        summary = build.to_webdataset(
            data,
            output,
            kind,
            name=name,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns or None,
            label_column=label_column,
            templates=templates,
            classnames=classnames,
            shard_rows=shard_rows,
            progress=advance,
            expect=advance.expect,
            say=show_remark,
        )
    show_summary(summary, output)
