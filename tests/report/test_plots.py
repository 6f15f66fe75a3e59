from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from mmcontrast.report.curves import Chart, Series
from mmcontrast.report.plots import chart_svg, running_mean, short_number


def series(name: str, values: list[float]) -> Series:
    return Series(name, np.arange(len(values), dtype=np.float64), np.array(values))


def test_svg_is_well_formed_scalable_and_takes_the_pages_colours() -> None:
    svg = chart_svg(Chart("A <title> & more", [series("a", [1, 2, 3]), series("b", [3, math.nan, 1])], marks=True))
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == "A <title> & more"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert "#0102" not in svg  # no stand-in is left
    assert "prefers" not in svg


def test_global_settings_of_matplotlib_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    chart_svg(Chart("t", [series("a", [0.1] * 30)], "share", smooth=True))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("values", [[1.0], [math.nan, 1.0], [5.0, 5.0], [0.0, 1e-9], [1e9, 2e9]])
def test_odd_series_are_drawn_without_a_warning(values: list[float]) -> None:
    for kind in ({"marks": True}, {"smooth": True}, {"unit": "share"}):
        assert "<svg" in chart_svg(Chart("t", [series("a", values)], **kind))  # type: ignore[arg-type]


def test_running_mean_against_a_literal_loop() -> None:
    values = np.array([1.0, math.nan, 4.0, 2.0, 9.0, 3.0, math.nan])
    for reach in (0, 1, 2):
        expected = [np.nanmean(values[max(0, i - reach) : i + reach + 1]) for i in (0, 2, 3, 4, 5)]
        assert running_mean(values, reach)[[0, 2, 3, 4, 5]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (2.5e-4, "2.5e-4"), (1e-5, "1e-5"), (12_000, "12k"), (1600, "1600"), (-3.5, "-3.5")],
)
def test_short_number(value: float, text: str) -> None:
    assert short_number(value) == text
