"""The commands that search in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcontrast.cli.options import BatchSize, CaptionColumns, ImageColumn, Model, Split
from mmcontrast.cli.output import check_json_output, echo, progress, show_remark, write_json
from mmcontrast.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

    from mmcontrast.report.search_page import Answer
    from mmcontrast.searching import Hit, Query, Searcher

HOST = "127.0.0.1"
_LONGEST_CELL = 160
Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Folder of pictures; or file, glob or Hub name of a data set.")
]
Captions = Annotated[bool, typer.Option("--captions", help="Search the captions instead of the pictures.")]
Index = Annotated[
    Path | None, typer.Option(help="Keep the index here (default: the user's cache folder, or MMCONTRAST_CACHE).")
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Embed everything anew.")]


def search(
    model: Model,
    folder: Folder,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Words, or the path of a picture.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Pictures shown.")] = 12,
    output: Annotated[Path | None, typer.Option(help="HTML page to write, with the pictures.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Text file with a query a line, instead of QUERY.")] = None,
    text: Annotated[bool, typer.Option("--text", help="QUERY is words, even if there is such a file.")] = False,
    image: Annotated[bool, typer.Option("--image", help="QUERY is the path of a picture.")] = False,
    captions: Captions = False,
    index: Index = None,
    rebuild: Rebuild = False,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    batch_size: BatchSize = 64,
) -> None:
    """Find pictures by words or by a picture; only new and changed ones are embedded the next time."""
    if (query is None) == (queries is None):
        raise typer.BadParameter("give one QUERY (in quotes, if it has several words), or --queries FILE")
    if text and image:
        raise typer.BadParameter("--text and --image exclude each other")
    check_json_output(output)
    check_json_output(json_file, "--json")
    from mmcontrast.searching import read_queries, read_query

    # What is quick to check comes first: a misspelt query should not cost the loading of a model.
    asked = read_queries(queries) if queries else [read_query(query or "", _kind(text, image))]
    from mmcontrast import build

    with progress("index") as advance:
        searcher = build.open_search(
            model,
            folder,
            captions=captions,
            index=index,
            rebuild=rebuild,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns or None,
            batch_size=batch_size,
            progress=advance,
            expect=advance.expect,
            say=show_remark,
        )
    answers = _answers(searcher, asked, k)
    for answer in answers:
        _show(answer)
    _write(searcher, answers, {"model": model, "folder": folder, "captions": captions}, output, json_file)


def _kind(text: bool, image: bool) -> Any:
    return "text" if text else "picture" if image else "guess"


def _answers(searcher: Searcher, asked: Sequence[Query], k: int) -> list[Answer]:
    from mmcontrast.report.search_page import Answer

    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:  # that there are few pictures, once for all queries
            said.add(line)
            show_remark(line)

    return [Answer(query, searcher.search(query, k, say)) for query in asked]


def _show(answer: Answer) -> None:
    from rich.console import Console

    Console().print(_table(answer.query, answer.hits))


def _table(query: Query, hits: Sequence[Hit]) -> Table:
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    captioned = any(hit.captions for hit in hits)
    title = Text(f"pictures like {printable(query.words)}" if query.picture else f"“{printable(query.words)}”")
    table = Table(title=title, title_justify="left")
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    table.add_column("picture", overflow="fold")
    if captioned:
        table.add_column("caption")
    for rank, hit in enumerate(hits, start=1):
        link = Style(link=hit.path.as_uri()) if hit.path is not None else Style()  # terminals open it on a click
        cells = [Text(str(rank)), Text(f"{hit.score:.3f}"), Text(printable(hit.name), link)]
        if captioned:
            caption = hit.caption or next(iter(hit.captions), "")
            cut = caption if len(caption) <= _LONGEST_CELL else caption[:_LONGEST_CELL] + "..."
            cells.append(Text(printable(cut)))
        table.add_row(*cells)
    return table


def _write(
    searcher: Searcher, answers: Sequence[Answer], about: dict[str, Any], page: Path | None, json_file: Path | None
) -> None:
    if json_file is not None:
        write_json({**about, "pictures": len(searcher), "results": [_as_dict(answer) for answer in answers]}, json_file)
        echo(f"results: {json_file}")
    if page is not None:
        from mmcontrast.report.search_page import write_search_page

        facts = {
            "pictures": f"{len(searcher):,}",
            "model": about["model"],
            "searched": "captions" if about["captions"] else "pictures",
        }
        write_search_page(answers, searcher.picture, page, title=about["folder"], facts=facts)
        echo(f"page: {page}")


def _as_dict(answer: Answer) -> dict[str, Any]:
    hits = [
        {
            "rank": rank,
            "score": round(hit.score, 6),
            "name": hit.name,
            "path": None if hit.path is None else str(hit.path),
            "captions": hit.captions,
            "caption": hit.caption,
        }
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    return {"query": answer.query.words, "kind": "picture" if answer.query.picture else "text", "hits": hits}


def demo(
    model: Model,
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine can reach the default.")] = HOST,
    index: Index = None,
    rebuild: Rebuild = False,
    split: Split = None,
    image_column: ImageColumn = None,
    caption_columns: CaptionColumns = None,
    batch_size: BatchSize = 64,
) -> None:
    """Search a folder in the browser, by words or by a picture, and try zero-shot classes; Ctrl-C ends it."""
    from mmcontrast import build

    with progress("index") as advance:
        page = build.open_demo(
            model,
            folder,
            host=host,
            port=port,
            index=index,
            rebuild=rebuild,
            split=split,
            image_column=image_column,
            caption_columns=caption_columns or None,
            batch_size=batch_size,
            progress=advance,
            expect=advance.expect,
            say=show_remark,
        )
    page.serve(lambda address: echo(f"{address}  (Ctrl-C ends it)"))
