"""What interpolating between two models gives and costs, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_INK, _GRID, _COLOURS = "#3b4252", "#e3e6ee", ("#4453d6", "#d9722b", "#14967a", "#b845a5", "#3d9bd8", "#8a7a16")


def sweep_png(
    alphas: Sequence[float], curves: Mapping[str, Sequence[float]], *, ends: tuple[str, str], chosen: float | None
) -> bytes:
    """A PNG: each metric over alpha, and, where there are two, one against the other.

    Args:
        alphas: n shares of the second model.
        curves: {"data: metric": n values}.
        ends: names of the first and second model.
        chosen: the alpha that was taken, or None.
    """
    pair = len(curves) == 2
    figure = Figure(figsize=(10.5 if pair else 6.2, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if pair else 1, squeeze=False)[0]
    _over_alpha(axes[0], alphas, curves, ends, chosen)
    if pair:
        _against(axes[1], alphas, curves, ends, chosen)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _over_alpha(
    axes: Axes,
    alphas: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    ends: tuple[str, str],
    chosen: float | None,
) -> None:
    for number, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(alphas, values, color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
        # What a mean of the two models' scores would be: a curve above it is the point of interpolating.
        axes.plot([alphas[0], alphas[-1]], [values[0], values[-1]], color=colour, linewidth=0.9, linestyle=(0, (4, 4)))
    if chosen is not None:
        axes.axvline(chosen, color=_INK, linewidth=1, linestyle=":")
    _dress(axes, f"alpha\n0 = {_short(ends[0])}    1 = {_short(ends[1])}", "score")
    title = "" if chosen is None else f"chosen: {chosen:g}"
    legend = axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="best", title=title, title_fontsize=8.5)
    legend.get_title().set_color(_INK)
    _plain(legend.get_texts())


def _against(
    axes: Axes,
    alphas: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    ends: tuple[str, str],
    chosen: float | None,
) -> None:
    (x_name, x), (y_name, y) = curves.items()
    axes.plot(x, y, color=_COLOURS[0], marker="o", markersize=4, linewidth=1.8)
    falls = (x[-1] - x[0]) * (y[-1] - y[0]) < 0
    for number, alpha in enumerate(alphas):
        end = f" = {_short(ends[int(alpha)])}" if alpha in (0, 1) else ""
        # On the side of the curve where there is no line: above it to the right, or to the left where it rises.
        text = axes.annotate(f"{alpha:g}{end}", (x[number], y[number]), xytext=(7 if falls else -7, 5), fontsize=8,
                             textcoords="offset points", color=_INK, ha="left" if falls else "right")  # fmt: skip
        text.set_parse_math(False)
        if alpha == chosen:
            axes.plot([x[number]], [y[number]], marker="o", markersize=10, fillstyle="none", color=_INK)
    axes.margins(x=0.3, y=0.1)
    _dress(axes, x_name, y_name)


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_GRID)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, labelsize=9)
    _plain([axes.set_xlabel(x_label, color=_INK), axes.set_ylabel(y_label, color=_INK)])


def _plain(texts: Sequence[Any]) -> None:
    """Names of files may hold dollar signs, which would be read as formulas."""
    for text in texts:
        text.set_parse_math(False)


def _short(name: str) -> str:
    """The last folders of a path: runs/tuned/model is told by its run."""
    tail = "/".join(name.rstrip("/").split("/")[-2:])
    return tail if len(tail) <= 24 else f"...{tail[-21:]}"
