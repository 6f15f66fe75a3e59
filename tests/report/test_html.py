from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium_pipe import find_chromium
from PIL import Image
from report_samples import HOSTILE, make_history

from mmcontrast.report import ReportInputs, render_report, write_report


class Page(HTMLParser):
    """Tags with their attributes, ids, and the visible text of a page; fails on tags that do not match."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str, css_class: str = "") -> int:
        return sum(name == tag and css_class in (at.get("class") or "") for name, at in self.tags)


def test_all_sections_are_there(full_inputs: ReportInputs) -> None:
    page = Page(render_report(full_inputs))
    ids = {at["id"] for _, at in page.tags if "id" in at}
    assert {"results", "curves", "gallery", "confusion", "data", "config"} <= ids
    links = [at["href"] for tag, at in page.tags if tag == "a"]
    assert links
    assert all(link is not None and link[1:] in ids for link in links)
    assert page.count("article", "query") == 6
    # loss, scale, rate, pairs/s, known positives; recall, ranks, zero-shot
    assert page.count("svg", "chart") == 8
    for text in (
        "25.0 %",
        "25× chance",
        "4.0×",
        "cat taken for",
        "40 rows could not be used",
        "… and 10 more",
        "1.2 %",
    ):
        assert text in re.sub(r"\s+", " ", page.text)


def test_the_page_asks_nobody_for_anything(full_inputs: ReportInputs) -> None:
    text = render_report(full_inputs)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/")), (tag, name, value)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    policy = next(at["content"] for tag, at in page.tags if at.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy


def test_strangers_text_is_shown_and_never_interpreted(full_inputs: ReportInputs) -> None:
    text = render_report(full_inputs)
    assert "<script" not in text
    assert "<img src=http" not in text
    assert "{{ 7 * 7 }}" in text
    page = Page(text)
    # headline, title, fact, note, negatives, class names, captions, ... each to the letter
    assert page.text.count(HOSTILE) > 15


def test_metric_names_are_escaped_within_charts() -> None:
    history = [{"global_step": 1, "split": "v", "<b>$x^$ & acc": 0.5, "<i>acc": 0.1, "<svg onload=alert(1)>.acc1": 1.0}]
    text = render_report(ReportInputs("r", history=history))
    assert "<svg onload" not in text
    assert "&lt;b&gt;$x^$ &amp; acc" in text


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ReportInputs) if f.name != "run_name"])
def test_any_part_may_be_missing(full_inputs: ReportInputs, field: str) -> None:
    empty = getattr(ReportInputs("x"), field)
    quick = dataclasses.replace(full_inputs, history=full_inputs.history[:2])
    Page(render_report(dataclasses.replace(quick, **{field: empty})))


def test_a_bare_name_makes_a_report() -> None:
    page = Page(render_report(ReportInputs("only a name")))
    assert "only a name" in page.text
    assert page.count("svg") == page.count("img") == page.count("article") == 0
    assert "None: every row was used." in page.text


def test_nan_and_missing_numbers_are_dashes_never_words() -> None:
    history = [*make_history(3), {"global_step": 4, "loss": None, "lr": math.inf}, {"global_step": None, "loss": 1.0}]
    inputs = ReportInputs(
        "r",
        history=[{k: math.nan if k == "logit_scale" else v for k, v in line.items()} for line in history],
        results={
            "retrieval": {"mean_recall": math.nan, "map@r": None, "text_to_image_recall@1": math.inf},
            "empty": {},
        },
        chance={"retrieval": {"text_to_image_recall@1": 0.0}},
        confusion=(np.array([[np.nan, 0.0], [0.0, 0.0]]), ["a", "b"]),
    )
    page = Page(render_report(inputs))
    assert "nan" not in page.text.lower().replace("nano", "")
    assert "inf" not in page.text.lower()
    assert "–" in page.text
    assert "Logit scale" not in page.text  # a series without any number has no chart


def test_many_classes_and_long_histories_stay_small() -> None:
    confusion = np.eye(300, dtype=int)
    text = render_report(
        ReportInputs("r", history=make_history(20_000), confusion=(confusion, [f"c{i}" for i in range(300)]))
    )
    assert len(text) < 4_000_000
    assert "The last 100 classes are not shown" in text


def test_same_inputs_same_page(full_inputs: ReportInputs) -> None:
    assert render_report(full_inputs) == render_report(full_inputs)


def test_written_in_one_go(full_inputs: ReportInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(full_inputs, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render_report(full_inputs)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        write_report(ReportInputs("other"), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync", "hide-scrollbars"]  # fmt: skip


def test_a_real_browser_draws_it(full_inputs: ReportInputs, tmp_path: Path) -> None:
    report = write_report(full_inputs, tmp_path / "report.html")
    picture = tmp_path / "page.png"
    command = [find_chromium(), *(f"--{flag}" for flag in FLAGS), f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1280,1600", f"--screenshot={picture}", report.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100
    # Styled: the page's own background, not the browser's white.
    assert (pixels == (0xF5, 0xF6, 0xF9)).all(axis=1).mean() > 0.1
