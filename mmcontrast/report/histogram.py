"""Histograms of cosines as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmcontrast.report.plots import GRID, INK, LINES, STYLE, inline

_BINS = 50


def histogram_svg(counts: Mapping[str, NDArray[np.int64]], title: str) -> Markup:
    """Counts of each kind in (b,) bins from -1 to 1, each as a density of its own: positives are few.

    Kinds without any pair are left out; empty bins at both ends are, too.
    """
    drawn = {kind: values for kind, values in counts.items() if values.sum()}
    if not drawn:
        return Markup()
    low, high, merged = _window(list(drawn.values()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for (kind, values), colour in zip(drawn.items(), (LINES[2], LINES[0], LINES[6]), strict=False):
            edges, density = _density(values, low, high, merged)
            label = f"{kind} ({values.sum():,})"
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.22)
            axes.stairs(density, edges, color=colour, linewidth=1.6, label=label)
        _dress(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(buffer.getvalue(), title)


def _window(all_counts: list[NDArray[np.int64]]) -> tuple[int, int, int]:
    """First and last bin to draw, and how many bins to merge into one so that about _BINS remain."""
    bins = len(all_counts[0])
    kept = np.zeros(bins, dtype=bool)
    for values in all_counts:  # a few far pairs of millions shall not squeeze the rest together
        share = np.cumsum(values) / values.sum()
        kept |= (share > 0.0005) & (share - values / values.sum() < 0.9995)
    there = np.flatnonzero(kept)
    merged = max(1, (int(there[-1]) - int(there[0]) + 1) // _BINS)
    low = int(there[0]) // merged * merged
    return low, min(bins, (int(there[-1]) // merged + 1) * merged), merged


def _density(
    values: NDArray[np.int64], low: int, high: int, merged: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    starts = np.arange(low, high, merged)
    sums = np.add.reduceat(values, starts)[: len(starts)].astype(np.float64)
    sums[-1] = values[starts[-1] : high].sum()
    edges = np.append(starts, high) / len(values) * 2 - 1
    return edges, sums / values.sum() / np.diff(edges)


def _dress(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.set_yticks([])
    axes.margins(x=0.01)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.set_xlabel("cosine of picture and caption", color=INK)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1.2)
