"""Charts as inline SVG that takes its colours from the page, and so follows light and dark mode."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mmcontrast.report.curves import Chart, Series

# Stand-ins that no palette uses; in the finished SVG each becomes a CSS variable of the page.
INK, GRID = "#010203", "#010204"
LINES = ["#0102a1", "#0102a2", "#0102a3", "#0102a4", "#0102a5", "#0102a6", "#0102a7"]
_VARIABLES = {INK: "var(--muted)", GRID: "var(--line)"} | {
    colour: f"var(--series-{k + 1})" for k, colour in enumerate(LINES)
}
# Any: matplotlib's own type lists every known key, and so changes with its version.
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: the page's font, selectable, and small
    "svg.hashsalt": "mmcontrast",  # the same chart is the same file
    "font.family": "sans-serif",
    "font.size": 9.5,
    "path.simplify": True,
}

Values = np.ndarray[Any, np.dtype[np.float64]]


def chart_svg(chart: Chart) -> Markup:
    """One chart as an <svg> element without a size of its own (it fills its box)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for series, colour in zip(chart.series, LINES * 9, strict=False):
            _draw_series(axes, series, colour, chart)
        _dress(axes, chart)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(buffer.getvalue(), chart.title)


def _draw_series(axes: Axes, series: Series, colour: str, chart: Chart) -> None:
    finite = np.isfinite(series.y)
    if chart.marks or len(series.x) == 1:
        x, y = series.x[finite], series.y[finite]
        axes.plot(x, y, color=colour, marker="o", markersize=3.2, linewidth=1.6, label=series.name)
    elif chart.smooth and finite.sum() > 20:
        axes.plot(series.x, series.y, color=colour, linewidth=1.0, alpha=0.3)
        axes.plot(series.x, running_mean(series.y, len(series.y) // 20), color=colour, linewidth=1.8)
    else:
        axes.plot(series.x, series.y, color=colour, linewidth=1.8)


def running_mean(values: Values, reach: int) -> Values:
    """Mean over `reach` values to either side, NaN left out; (n,) to (n,)."""
    finite = np.isfinite(values)
    kernel = np.ones(2 * reach + 1)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[reach : -reach or None]
    count = np.convolve(finite.astype(np.float64), kernel)[reach : -reach or None]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _dress(axes: Axes, chart: Chart) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.margins(x=0.03)
    if chart.unit == "share":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{short_number(100 * value)} %"))
        axes.set_ylim(bottom=0)
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    if len(chart.series) > 1:
        labels = [series.name for series in chart.series]
        legend = axes.legend(labels, frameon=False, fontsize=8.5, labelcolor=INK, loc="best", handlelength=1.4)
        for text in legend.get_texts():
            text.set_parse_math(False)


def short_number(value: float) -> str:
    """A tick label: 12k, 0.05, 2.5e-4; never more digits than it takes."""
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:g}k"
    if 1e-12 < size < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{round(value, 6):g}"


def inline(svg: str, title: str) -> Markup:
    """The <svg> element alone, scalable, named for screen readers, with the page's colours."""
    svg = svg[svg.index("<svg") :]
    head, _, body = svg.partition(">")
    view = head[head.index('viewBox="') :].split('"')[1]
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    opening = Markup('<svg class="chart" role="img" aria-label="{}" viewBox="{}">').format(title, view)
    return opening + Markup(body)  # matplotlib has escaped all texts within
