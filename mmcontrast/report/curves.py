"""From the lines of metrics.jsonl to the charts of a report: which series, and their points. Draws nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_POINTS = 400
_TRAINING = {
    "loss": "Training loss",
    "logit_scale": "Logit scale",
    "lr": "Learning rate",
    "pairs_per_second": "Pairs per second",
}
_NEGATIVES = {
    "Negatives: shares of the pairs": (
        "share",
        {
            "known_positive_share": "known to match",
            "false_negative_share": "believed to match",
            "floor_share": "at the floor",
            "prior": "estimated prior",
        },
    ),
    "Effective number of negatives": ("", {"effective_negatives": ""}),
    "Mean log-weight of a negative": ("", {"mean_log_weight": ""}),
    "Calibrator: loss": ("", {"calibrator_loss": ""}),
    "Calibrator: error on held-out pairs": ("", {"calibrator_brier": "Brier score", "calibrator_ece": "ECE"}),
    "Clusters: cosine of stored and fresh features": ("", {"cluster_drift": ""}),
    "Number of clusters": ("", {"clusters": ""}),
}
_NOT_METRICS = {"global_step", "epoch", "samples_seen"}


@dataclass(frozen=True)
class Series:
    """A line of a chart; y may hold NaN."""

    name: str
    x: np.ndarray[Any, np.dtype[np.float64]]
    y: np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Chart:
    """One chart. marks: single points, joined; smooth: a running mean is drawn over the points.

    Attributes:
        unit: "share" (an axis in per cent), "rank", or "" for plain numbers.
    """

    title: str
    series: list[Series]
    unit: str = ""
    marks: bool = False
    smooth: bool = False


def is_share(metric: str) -> bool:
    """Whether a metric of this name lies in [0, 1] and reads best as per cent."""
    return any(part in metric for part in ("recall", "acc", "map@", "precision", "share", "f1"))


def as_number(value: Any) -> float:
    """The value, or NaN for whatever is no finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return math.nan


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _series(name: str, lines: Sequence[Mapping[str, Any]], key: str) -> Series | None:
    points = [(as_number(line.get("global_step")), as_number(line[key])) for line in lines if key in line]
    points = [point for point in points if math.isfinite(point[0])]
    if not any(math.isfinite(y) for _, y in points):
        return None
    xy = np.array(points, np.float64)
    return _thin_out(Series(name, xy[:, 0], xy[:, 1]))


def _thin_out(series: Series) -> Series:
    """At most MAX_POINTS points: means of equal stretches, NaN only where a whole stretch is."""
    if len(series.x) <= MAX_POINTS:
        return series
    stretches = np.array_split(np.arange(len(series.x)), MAX_POINTS)
    y = [series.y[s][np.isfinite(series.y[s])] for s in stretches]
    means = np.array([part.mean() if len(part) else math.nan for part in y])
    return Series(series.name, np.array([series.x[s].mean() for s in stretches]), means)


def charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts that this history has numbers for: training first, then one for each task and kind of metric."""
    training = [line for line in history if "split" not in line]
    evaluations = [flatten(line) for line in history if "split" in line]
    drawn = [
        Chart(title, [series], "share" if key.endswith("share") else "", smooth=key not in ("lr", "logit_scale"))
        for key, title in _TRAINING.items()
        if (series := _series(title, training, key)) is not None
    ]
    return drawn + _evaluation_charts(evaluations)


def negative_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of what was logged about the negatives."""
    lines = [line for line in history if "split" not in line]
    drawn: list[Chart] = []
    for title, (unit, names) in _NEGATIVES.items():
        found = [(name, _series(name, lines, key)) for key, name in names.items()]
        series = [replace(values, name=name or title) for name, values in found if values is not None]
        if series:
            drawn.append(Chart(title, series, unit, smooth=len(series) == 1))
    return drawn


def _evaluation_charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    grouped: dict[tuple[str, str], list[Series]] = {}
    names = dict.fromkeys(name for line in lines for name in line if name not in _NOT_METRICS and name != "split")
    for name in names:
        if (series := _series(name, lines, name)) is not None:
            key = _chart_key(name)
            grouped.setdefault(key, []).append(replace(series, name=_label(series.name, key[0])))
    return [Chart(title, series, unit, marks=True) for (title, unit), series in grouped.items()]


def _label(name: str, title: str) -> str:
    """A metric's name as prose writes it, without what the chart's title tells already."""
    metric = name.rpartition(".")[2]
    if "recall" in title:
        metric = metric.removeprefix("image_to_text_recall").removeprefix("text_to_image_recall")
    return (
        metric.replace("_to_", " → ").replace("_", " ").replace("map@r", "mAP@R").replace("r precision", "R-precision")
    )


def _chart_key(name: str) -> tuple[str, str]:
    """(title, unit) of the chart that a metric belongs to."""
    task, _, metric = name.rpartition(".")
    title = task.replace("_", "-").replace(".", " ").capitalize() if task else "Validation"
    for direction, words in (("image_to_text", "image → text"), ("text_to_image", "text → image")):
        if metric.startswith(direction) and "recall" in metric:
            return f"{title}: {words} recall", "share"
    if "rank" in metric:
        return f"{title}: ranks", "rank"
    if metric.endswith(("map@r", "r_precision")):
        return f"{title}: mAP@R and R-precision", "share"
    return (f"{title}: overall", "share") if is_share(metric) else (f"{title}: other", "")
