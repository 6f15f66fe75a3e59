"""The command that shows where in a picture texts are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcontrast.cli.options import Model
from mmcontrast.cli.output import check_json_output, echo
from mmcontrast.cli.score_tables import cell


def heatmap(
    model: Model,
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="File of a picture.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT ...", help="What to look for in it.")],
    output: Annotated[Path, typer.Option(help="PNG or HTML file to write.")] = Path("heatmap.png"),
) -> None:
    """Show where in a picture a model with a vision transformer finds texts, patch by patch."""
    check_json_output(output)
    from mmcontrast import build

    maps = build.heatmap(model, picture, texts, output)
    from rich.console import Console
    from rich.table import Table

    table = Table("text", "whole picture", "least patch", "greatest patch", "at row, column")
    for found in maps:
        row, column = divmod(int(found.heat.argmax()), found.heat.shape[1])
        size = f"{row + 1}, {column + 1} of {found.heat.shape[0]}, {found.heat.shape[1]}"
        table.add_row(cell(found.text), f"{found.whole:.3f}", f"{found.low:.3f}", f"{found.high:.3f}", size)
    Console().print(table)
    echo(f"{'page' if output.suffix.lower() == '.html' else 'picture'}: {output}")
