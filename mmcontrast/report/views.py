"""From the inputs of a report to the rows that its template prints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcontrast.report.curves import as_number, flatten, is_share
from mmcontrast.report.inputs import ReportInputs
from mmcontrast.report.pictures import data_uri as data_uri
from mmcontrast.types import BadRow

DASH = "–"
MAX_BAD_ROWS = 30
MAX_LABELLED_CLASSES = 40
MAX_CLASSES = 200
DIRECTIONS = ("image_to_text_", "text_to_image_")
_HEADLINES = (
    ("retrieval", "text_to_image_recall@1", "Text → image R@1"),
    ("retrieval", "image_to_text_recall@1", "Image → text R@1"),
    ("retrieval", "mean_recall", "Mean recall"),
    ("retrieval", "map@r", "mAP@R"),
    ("zero_shot", "acc1", "Zero-shot accuracy"),
    ("zero_shot", "mean_per_class_recall", "Mean per-class recall"),
)


@dataclass(frozen=True)
class MetricRow:
    """A metric as it is printed; `times` is how many times chance it is, `interval` its 95 % interval, or ""."""

    name: str
    value: str
    chance: str = ""
    times: str = ""
    share: float | None = None
    interval: str = ""


@dataclass(frozen=True)
class ConfusionView:
    """(c, c) shares of each true class's row, and the pairs most often taken for each other.

    Attributes:
        rows: (name, support, cells); a cell is None where the class has no example.
    """

    names: Sequence[str]
    rows: list[tuple[str, int, list[float | None]]]
    pairs: list[tuple[str, str, float, int, int]]
    labelled: bool
    left_out: int


def format_metric(name: str, value: Any) -> str:
    """12.3 % for shares, 4.5 for ranks and others, a dash for what is no number."""
    number = as_number(value)
    if math.isnan(number):
        return DASH
    if is_share(name) and -1e-9 <= number <= 1 + 1e-9:
        return f"{100 * number:.{2 if 0 < number < 0.01 else 1}f} %"
    return f"{number:,.0f}" if number == round(number) else f"{number:,.4g}"


def metric_row(
    name: str, value: Any, chance: Any, label: str | None = None, interval: tuple[float, float] | None = None
) -> MetricRow:
    """A metric beside chance and above its interval, where those are known."""
    number, guess = as_number(value), as_number(chance)
    times = number / guess if is_share(name) and guess > 0 and number >= 0 else math.nan
    return MetricRow(
        name=label or name,
        value=format_metric(name, value),
        chance="" if math.isnan(guess) else format_metric(name, guess),
        times="" if math.isnan(times) else f"{times:.0f}×" if times >= 10 else f"{times:.1f}×",
        share=number if is_share(name) and 0 <= number <= 1 else None,
        interval="" if interval is None else " – ".join(format_metric(name, end) for end in interval),
    )


def metric_tables(inputs: ReportInputs) -> dict[str, list[MetricRow]]:
    """Task -> rows of the metrics that have one value only."""
    return {
        _task_title(task): [
            metric_row(
                name, value, inputs.chance.get(task, {}).get(name), interval=inputs.intervals.get(task, {}).get(name)
            )
            for name, value in metrics.items()
            if not name.startswith(DIRECTIONS)
        ]
        for task, metrics in inputs.results.items()
    }


def direction_tables(inputs: ReportInputs) -> dict[str, list[tuple[str, list[MetricRow | None]]]]:
    """Task -> (metric, its rows in the two DIRECTIONS), for the metrics that have a direction."""
    tables: dict[str, list[tuple[str, list[MetricRow | None]]]] = {}
    for task, metrics in inputs.results.items():
        chance, intervals = inputs.chance.get(task, {}), inputs.intervals.get(task, {})
        bare = dict.fromkeys(name.removeprefix(d) for d in DIRECTIONS for name in metrics if name.startswith(d))
        if bare:
            tables[_task_title(task)] = [
                (
                    readable(name),
                    [
                        metric_row(n, metrics[n], chance.get(n), interval=intervals.get(n))
                        if (n := d + name) in metrics
                        else None
                        for d in DIRECTIONS
                    ],
                )
                for name in bare
            ]
    return tables


def readable(metric: str) -> str:
    """A metric's name as prose writes it."""
    return metric.replace("_", " ").replace("map@r", "mAP@R").replace("r precision", "R-precision")


def shorten(text: str, longest: int = 300) -> str:
    """A text that strangers wrote, cut where it would fill the page."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _task_title(task: str) -> str:
    return task.replace("_", "-").capitalize()


def headlines(inputs: ReportInputs) -> list[MetricRow]:
    """The few numbers that a reader looks for first."""
    return [
        metric_row(name, inputs.results[task][name], inputs.chance.get(task, {}).get(name), label)
        for task, name, label in _HEADLINES
        if name in inputs.results.get(task, {})
    ]


def confusion_view(confusion: tuple[Any, Sequence[str]]) -> ConfusionView:
    """Row-normalised matrix and the ten most confused pairs (true class, predicted class, share, count, support)."""
    counts, names = np.asarray(confusion[0], np.float64), confusion[1]
    support = np.nansum(counts, axis=1)
    shares = np.divide(counts, support[:, None], out=np.full_like(counts, np.nan), where=support[:, None] > 0)
    wrong = np.where(np.eye(len(counts), dtype=bool) | ~(counts > 0), -1.0, shares)
    worst = [divmod(int(k), len(counts)) for k in np.argsort(-wrong, axis=None, kind="stable")[:10]]
    pairs = [
        (names[i], names[j], float(shares[i, j]), int(counts[i, j]), int(support[i]))
        for i, j in worst
        if wrong[i, j] > 0
    ]
    shown = min(len(counts), MAX_CLASSES)
    rows = [
        (names[i], int(support[i]), [float(x) if math.isfinite(x) else None for x in shares[i, :shown]])
        for i in range(shown)
    ]
    return ConfusionView(names[:shown], rows, pairs, len(counts) <= MAX_LABELLED_CLASSES, len(counts) - shown)


def bad_row_summary(rows: Sequence[BadRow]) -> list[tuple[str, int]]:
    """Reason -> count, the most frequent first."""
    return Counter(row.reason for row in rows).most_common(MAX_BAD_ROWS)


def negative_rows(inputs: ReportInputs) -> list[tuple[str, str]]:
    """What is known of the negatives, given or found in the history."""
    given = {
        name: value if isinstance(value, str) else format_metric("share" if 0 <= value <= 1 else name, value)
        for name, value in inputs.negatives.items()
    }
    seen = [as_number(line.get("known_positive_share")) for line in inputs.history]
    seen = [share for share in seen if not math.isnan(share)]
    if seen:
        mean = sum(seen) / len(seen)
        given.setdefault("Known positives among the candidates of a batch, mean", f"{100 * mean:.3f} %")
    return list(given.items())


def config_rows(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Section -> (field, value); fields outside of any section come under ""."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name, value in flatten(config).items():
        section, _, rest = name.partition(".")
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        sections.setdefault(section if rest else "", []).append((rest or name, shown))
    return sections
