"""The page of pictures that a search found."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mmcontrast.errors import DataError
from mmcontrast.report.search_page import Answer, render_search_page, write_search_page
from mmcontrast.searching import Hit, Query

EVIL = '<script>alert(1)</script><img src=x onerror="alert(1)">'
FACTS = {"pictures": "3", "model": "m", "searched": "pictures"}


def hit(name: str, score: float, captions: list[str] | None = None, caption: str | None = None) -> Hit:
    return Hit(score, name, Path("/pictures") / name, captions or [], caption, 0)


def picture(found: Hit) -> Image.Image:
    if "gone" in found.name:
        raise DataError("gone")
    return Image.new("RGB", (900, 600), "red")


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pictures_scores_names_and_captions() -> None:
    hits = [hit("a/b.png", 0.3456, ["one", "two", "three"]), hit("c.png", 0.2, ["x", "y"], "y"), hit("gone.png", -0.1)]
    page = render_search_page([Answer(Query("a red bus"), hits)], picture, title="photos", facts=FACTS)
    tags = Tags(page)
    assert all(
        text in tags.text for text in ("“a red bus”", "0.346", "0.200", "-0.100", "a/b.png", "one", "2 more", "y")
    )
    assert "cannot be shown any more" in tags.text
    pictures = [attributes["src"] or "" for tag, attributes in tags.found if tag == "img"]
    assert len(pictures) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert len(page) < 40_000  # thumbnails, not pictures
    assert [x for _, a in tags.found if (x := a.get("style"))] == ["width:100%", "width:58%", "width:0%"]


def test_nothing_is_loaded_and_nothing_of_others_is_obeyed() -> None:
    hits = [hit(EVIL + "\x1b[2J\u202e.png", 0.5, [EVIL, EVIL])]
    answers = [Answer(Query(EVIL), hits), Answer(Query(EVIL, Image.new("RGB", (8, 8))), hits)]
    tags = Tags(render_search_page(answers, picture, title=EVIL, facts={"model": EVIL, "searched": EVIL}))
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "iframe", "a", "object"}
    assert all((a["src"] or "").startswith("data:") for tag, a in tags.found if tag == "img")
    assert not any(key.startswith("on") for _, attributes in tags.found for key in attributes)
    assert "\x1b" not in tags.text
    assert "\u202e" not in tags.text
    assert ("meta", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in [
        (tag, attributes.get("content")) for tag, attributes in tags.found
    ]


def test_several_queries_and_a_picture_as_one() -> None:
    answers = [Answer(Query("one"), [hit("a.png", 0.5)]), Answer(Query("q.png", Image.new("RGB", (8, 8))), [])]
    page = render_search_page(answers, picture, title="photos", facts=FACTS)
    assert "2 queries" in page
    assert re.search(r"<h2>Pictures like this one<small>q.png</small></h2>", page)
    assert page.count('<ol class="grid">') == 2


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "found.html"
    answers = [Answer(Query("half \ud83d"), [hit("a\udcff.png", 0.5)])]
    write_search_page(answers, picture, path, title="t", facts=FACTS)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")

    def fail(found: Hit) -> Image.Image:
        raise RuntimeError

    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_search_page(answers, fail, path, title="t", facts=FACTS)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["found.html"]
