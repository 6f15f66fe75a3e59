from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image
from report_samples import HOSTILE, make_history
from test_html import Page

from mmcontrast.report import NegativesView, ReportInputs, render_negatives, render_report
from mmcontrast.report.gallery import encode_thumbnail
from mmcontrast.report.negatives import (
    ShownBatch,
    ShownCluster,
    ShownMap,
    ShownPair,
    ShownPicture,
    ShownReliability,
    batch_svg,
    map_svg,
    reliability_svg,
    same_in_words,
)


def thumbnail(shade: int = 90) -> bytes:
    return encode_thumbnail(Image.new("RGB", (20, 30), (shade, 90, 200)))


def pair(probability: float | None, same: bool | None) -> ShownPair:
    left, right = ShownPicture(thumbnail(), HOSTILE, "row 1"), ShownPicture(None, "a dog", HOSTILE)
    return ShownPair(left, right, probability, 0.61, HOSTILE if same is not None else "", same)


@pytest.fixture
def view() -> NegativesView:
    random = np.random.default_rng(0)
    return NegativesView(
        headlines=[("Pushed apart wrongly, as believed", "1.6 %", HOSTILE)],
        truth="class",
        believed=[pair(0.97, True), pair(0.934, False)],
        borderline=[pair(0.5, None)],
        hard=[pair(0.02, False)],
        clusters=[ShownCluster([thumbnail()], HOSTILE, 1234, 0.8, HOSTILE, 0.9), ShownCluster([], "none", 3, 0.5)],
        cluster_note=HOSTILE,
        map=ShownMap(random.normal(size=(50, 2)).astype(np.float32), np.arange(50) % 9, [0, 1], [thumbnail()] * 2, 0.4),
        batch=ShownBatch(
            [ShownPicture(thumbnail(), HOSTILE)] * 4,
            np.eye(4, dtype=bool),
            np.full((4, 4), 0.25),
            np.eye(4, dtype=bool),
        ),
        reliability=ShownReliability([0.01, 0.9], [0.0, 1.0], [1000, 10], {HOSTILE: "0.1"}),
        notes=[HOSTILE],
    )


def test_the_page_shows_pairs_with_probability_and_verdict(view: NegativesView) -> None:
    page = Page(render_negatives(view, name=HOSTILE, facts={"model": HOSTILE}))
    assert page.count("article", "pair") == 4
    assert page.count("article", "suspect") == 2
    assert page.count("article", "cluster") == 2
    assert page.count("svg") == 3
    text = re.sub(r"\s+", " ", page.text)
    for part in ("97 %", "93 %", "By class 1 of 2 are indeed the same", "1,234 pairs", "cosine 0.61", "hold 40 %"):
        assert part in text, part


def test_the_page_asks_nobody_and_interprets_nothing(view: NegativesView) -> None:
    text = render_negatives(view, name=HOSTILE, facts={"model": HOSTILE})
    page = Page(text)
    assert "<script" not in text
    assert "<img src=http" not in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), (tag, name)
    assert page.text.count(HOSTILE) > 15


def test_without_calibration_cosines_take_the_place_of_probabilities(view: NegativesView) -> None:
    ranked = dataclasses.replace(view, calibrated=False, believed=[pair(None, None)], borderline=[], reliability=None)
    text = re.sub(r"\s+", " ", Page(render_negatives(ranked, name="n")).text)
    assert "not a probability" in text
    assert "0.61" in text
    assert "Can the probabilities be believed" not in text


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(NegativesView)])
def test_any_part_may_be_missing(view: NegativesView, field: str) -> None:
    empty = getattr(NegativesView(), field)
    Page(render_negatives(dataclasses.replace(view, **{field: empty}), name="n"))


def test_nothing_found_is_said() -> None:
    page = Page(render_negatives(NegativesView(headlines=[("a", "b", "")]), name="n"))
    assert "No pair of different captions" in page.text
    assert page.count("img") == page.count("svg") == 0


def test_a_report_has_the_section_with_its_curves(view: NegativesView) -> None:
    history = [{"global_step": s, "effective_negatives": 9.0, "loss": 1.0} for s in (1, 2)]
    page = Page(render_report(ReportInputs("r", history=history, inspection=view, negatives={"rule": "calibrated"})))
    assert page.count("svg", "chart") == 2
    assert page.count("article", "pair") == 4
    assert "Effective number of negatives" in page.text
    links = [at["href"] for tag, at in page.tags if tag == "a"]
    assert "#negatives" in links
    plain = Page(render_report(ReportInputs("r", history=make_history())))
    assert plain.count("article", "pair") == 0
    assert "Negatives: shares of the pairs" in plain.text


def test_cells_of_the_batch_tell_what_each_pair_is() -> None:
    known = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    believed = np.array([[0.9, 0.9, 0.001], [0.7, 0.9, 0.0], [0.0, 0.0, 0.9]])
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    pictures = [ShownPicture(None, caption) for caption in ("a", "b <i>", "c")]
    svg = str(batch_svg(ShownBatch(pictures, known, believed, same)))
    assert svg.count('class="own"') == 3
    assert svg.count('class="known"') == 1
    assert svg.count('class="open"') == 5
    assert re.findall(r"--p:([\d.]+)", svg) == ["0.70"]
    assert svg.count('class="same"') == 1  # (1, 0): known and own cells need no mark
    assert "70 % believed to match: b &lt;i&gt; | a" in svg
    assert "<i>" not in svg


def test_map_keeps_far_points_inside_and_pictures_apart() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(size=(500, 2)), [[1e6, -1e6]]]).astype(np.float32)
    shown = ShownMap(points, np.zeros(501, np.int64), [0, 0, 500], [thumbnail()] * 3, 0.1)
    svg = str(map_svg(shown))
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="(\S+)" cy="(\S+)"', svg)]
    assert len(places) == 501
    assert all(0 < x < 1000 and 0 < y < 620 for x, y in places)
    assert svg.count("<image") == 2  # the second would cover the first


def test_reliability_points_grow_with_what_is_behind_them() -> None:
    svg = str(reliability_svg(ShownReliability([0.0, 1.0], [0.0, 0.5], [10, 100_000])))
    small, large = (float(r) for r in re.findall(r' r="([\d.]+)"', svg))
    assert small < large
    assert "100,000 pairs: 100.0 % believed, 50.0 % the same" in svg


def test_same_in_words() -> None:
    assert same_in_words([pair(0.9, True), pair(0.9, False), pair(0.9, None)]) == "1 of 2"
    assert same_in_words([pair(0.9, None)]) == ""


def test_thumbnails_are_pictures() -> None:
    assert Image.open(io.BytesIO(thumbnail())).format == "JPEG"
