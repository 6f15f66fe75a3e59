"""The command that writes features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmcontrast.cli.exit_codes import INCOMPLETE
from mmcontrast.cli.options import BatchSize, CaptionColumns, ImageColumn, Model, Split
from mmcontrast.cli.output import progress, show_remark, show_summary

ShardFormat = Literal["npy", "parquet"]


def embed(
    model: Model,
    data: Annotated[str, typer.Argument(metavar="DATA", help="File, glob, folder or Hub name of the pairs.")],
    output: Annotated[Path, typer.Option(help="Folder for the shards; the same command goes on in it.")],
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    batch_size: BatchSize = 256,
    form: Annotated[ShardFormat, typer.Option("--format", help="Kind of the shards.")] = "npy",
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a shard, which is held in memory.")] = 16384,
    half: Annotated[bool, typer.Option("--fp16", help="Keep features as float16: half the size.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Read in file order, for data of any size.")] = False,
    index: Annotated[bool, typer.Option("--index", help="Also write faiss indices of pictures and captions.")] = False,
) -> None:
    """Save L2-normalised features of all pictures and captions in shards; mmcontrast.load_features reads them.

    With --stream, files that cannot be read are tried again, then skipped, listed, and told by exit code 3.
    """
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
            format=form,
            shard_rows=shard_rows,
            half=half,
            stream=stream,
            index=index,
            progress=advance,
            expect=advance.expect,
            say=show_remark,
        )
    show_summary(summary, output)
    if summary["skipped_shards"]:
        raise typer.Exit(INCOMPLETE)
