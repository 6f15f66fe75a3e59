from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation_samples import TEXT, all_panes, full_page
from test_html import Page

from mmcontrast.errors import DataError
from mmcontrast.report import evaluation as pages
from mmcontrast.report.evaluation import EvaluationPage, render_evaluation, write_evaluation
from mmcontrast.report.histogram import histogram_svg
from mmcontrast.report.panes import ClassBar, Pane, Section
from mmcontrast.report.views import shorten


def test_each_section_has_its_numbers_and_a_tab_for_each_pane() -> None:
    page = Page(render_evaluation(full_page()))
    found = [at["id"] or "" for _, at in page.tags if "id" in at]
    ids = [name for name in found if name.startswith(("section", "tabs", "map"))]  # charts number their own parts
    assert len(ids) == len(set(ids))
    assert {"section-1", "section-2", "section-3", "map-1", "map-2"} <= set(ids)
    targets = [at["href"] for tag, at in page.tags if tag == "a" and "href" in at]
    assert targets
    assert all(target is not None and target[1:] in ids for target in targets)
    radios = [at for tag, at in page.tags if tag == "input"]
    labels = [at["for"] for tag, at in page.tags if tag == "label"]
    assert [at["id"] for at in radios] == labels
    assert len(labels) == 2 * len(all_panes())
    assert sum(tag == "div" and at.get("class") == "pane" for tag, at in page.tags) == len(labels)
    assert sum("checked" in at for at in radios) == 2
    text = re.sub(r"\s+", " ", page.text)
    for part in (
        "25.0 %",
        "1,234",
        "rank 2",
        "30 of 80 queries",
        "97 %",
        "70 more are left out",
        "all 40 classes",
        "1.25",
    ):
        assert part in text, part


def test_the_page_asks_nobody_and_interprets_nothing() -> None:
    text = render_evaluation(full_page())
    page = Page(text)
    assert "<script" not in text
    assert "<img src=http" not in text
    assert len(re.findall(r"<style[ >]", text.partition("</head>")[0])) == 2
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, name)
    assert not re.search(r"url\((?!data:image/jpeg;base64,[\w+/=]+\)|#)", text)
    policy = next(at["content"] for _, at in page.tags if at.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert page.text.count(TEXT) > 60


def test_same_page_same_text() -> None:
    assert render_evaluation(full_page()) == render_evaluation(full_page())


@pytest.mark.parametrize("kind", range(len(all_panes())))
def test_each_kind_of_pane_stands_alone(kind: int) -> None:
    Page(render_evaluation(EvaluationPage("m", sections=[Section("a", "knn", panes=[all_panes()[kind]])])))


def test_many_classes_are_folded_and_few_are_not() -> None:
    def bars(count: int) -> Page:
        rows = [ClassBar(f"class {i}", count - i, count) for i in range(count)]
        return Page(
            render_evaluation(EvaluationPage("m", sections=[Section("a", "knn", panes=[Pane("b", bars=rows)])]))
        )

    assert bars(30).count("details") == 0
    many = bars(3000)
    assert many.count("details") == 1
    assert "all 3,000 classes, the first 1000" in many.text
    assert many.count("li") == 24 + 1000


def test_long_texts_are_cut() -> None:
    long = "x" * 100_000
    section = Section("a", "knn", panes=[Pane("b", bars=[ClassBar(long, 1, 1)])])
    assert len(render_evaluation(EvaluationPage("m", sections=[section]))) < 60_000
    assert shorten("abc", 3) == "abc"
    assert shorten("abcd", 3) == "ab…"


def test_what_is_too_large_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = len(render_evaluation(full_page()).encode())
    path = tmp_path / "page.html"
    monkeypatch.setattr(pages, "PAGE_LIMIT", whole + 1)
    assert write_evaluation(full_page(), path).stat().st_size == whole
    monkeypatch.setattr(pages, "PAGE_LIMIT", whole)
    write_evaluation(full_page(), path)
    assert "the maps are left out" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < whole
    monkeypatch.setattr(pages, "PAGE_LIMIT", 50_000)
    write_evaluation(full_page(), path)
    assert "all pictures are left out" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 50_000
    before = path.read_bytes()
    monkeypatch.setattr(pages, "PAGE_LIMIT", 100)
    with pytest.raises(DataError, match="3 evaluations are too many"):
        write_evaluation(full_page(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_cards_are_the_first_number_of_each_section_or_all_of_one() -> None:
    page = full_page()
    assert Page(render_evaluation(page)).count("a", "card") == 2
    one = dataclasses.replace(page, sections=page.sections[:1])
    assert Page(render_evaluation(one)).count("a", "card") == 3
    assert Page(render_evaluation(one)).count("nav") == 0


def test_histograms_show_each_kind_whatever_its_number() -> None:
    counts = {"positives": np.zeros(200, int), "negatives": np.zeros(200, int)}
    assert str(histogram_svg(counts, "t")) == ""
    counts["negatives"][90:110] = 1_000_000
    counts["positives"][150:160] = 3
    svg = str(histogram_svg(counts, "a <b>"))
    assert "negatives (20,000,000)" in svg
    assert "positives (30)" in svg
    assert 'aria-label="a &lt;b&gt;"' in svg
