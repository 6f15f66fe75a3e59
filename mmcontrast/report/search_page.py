"""What searches found, as a page of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from mmcontrast.embedding_shards import write_whole
from mmcontrast.errors import DataError, printable
from mmcontrast.report.gallery import encode_thumbnail
from mmcontrast.report.pictures import data_uri
from mmcontrast.searching import Hit, Query

SIDE = 384
"""Longer side of the pictures in the page, in pixels: about 25 kB each."""


@dataclass(frozen=True)
class Answer:
    """A query and what was found for it."""

    query: Query
    hits: Sequence[Hit]


@dataclass(frozen=True)
class _Card:
    name: str
    score: float
    share: float
    captions: list[str]
    uri: str | None


def write_search_page(
    answers: Sequence[Answer],
    picture: Callable[[Hit], Image.Image],
    path: str | Path,
    *,
    title: str,
    facts: dict[str, str],
) -> None:
    """Write one page with all answers; it loads nothing and runs no script, and is there whole or not at all.

    Args:
        answers: the queries and their pictures.
        picture: decodes the picture of a hit.
        path: of the page.
        title: what was searched.
        facts: lines above the pictures.
    """
    page = render_search_page(answers, picture, title=title, facts=facts)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(page.encode("utf-8", "replace")))


def render_search_page(
    answers: Sequence[Answer], picture: Callable[[Hit], Image.Image], *, title: str, facts: dict[str, str]
) -> str:
    """The page itself; names, captions and queries are strangers' input and escaped."""
    environment = Environment(
        loader=PackageLoader("mmcontrast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    sections = [(answer.query.words, _thumbnail(answer.query), _cards(answer, picture)) for answer in answers]
    template = environment.get_template("search_page.html.j2")
    return template.render(title=title, facts=facts, sections=sections)


def _thumbnail(query: Query) -> str | None:
    return None if query.picture is None else data_uri(encode_thumbnail(query.picture, SIDE))


def _cards(answer: Answer, picture: Callable[[Hit], Image.Image]) -> list[_Card]:
    best = max((hit.score for hit in answer.hits), default=1.0)
    cards = []
    for hit in answer.hits:
        try:
            uri = data_uri(encode_thumbnail(picture(hit), SIDE))
        except DataError:  # gone, or broken, since it was indexed
            uri = None
        captions = [hit.caption] if hit.caption is not None else hit.captions
        share = max(0.0, hit.score / best) if best > 0 else 0.0
        cards.append(_Card(hit.name, hit.score, share, captions, uri))
    return cards
