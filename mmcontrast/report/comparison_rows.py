"""From a comparison to the rows and cards that its page, its Markdown and the terminal print."""

from __future__ import annotations

from dataclasses import dataclass

from mmcontrast.evaluation.comparison import MetricCompared
from mmcontrast.evaluation.contests import direction
from mmcontrast.evaluation.paired import Difference
from mmcontrast.report.comparison import ComparisonPage
from mmcontrast.report.curves import is_share
from mmcontrast.report.views import DASH, format_metric, readable

ALARM = 0.05
_PRIMARY = {
    "retrieval": "mean_recall",
    "zero_shot": "acc1",
    "linear_probe": "acc1",
    "knn": "acc1@5",
    "few_shot": "acc1@4_shots",
    "calibration": "nll",
    "image_to_image": "map@r",
    "text_to_text": "map@r",
    "hard_captions": "text_acc",
    "caption_selection": "question_acc",
    "winoground": "group_score",
    "multi_label": "map",
    "multilingual": "mean_recall",
    "robustness": "mean_recall",
}
_WITHOUT_HEADLINE = ("geometry",)  # no single number stands for it
_SHARES = ("text_acc", "question_acc", "_score", "map", "ece")


@dataclass(frozen=True)
class DifferenceCell:
    """How far a model is from the first one.

    Attributes:
        value: "+3.1" (percentage points for shares), or a dash.
        interval: "0.4 to 5.8", or "".
        p: "p = 0.012" after Holm's correction, or "".
        verdict: "win" or "lose" where p is below 5 % and one of both is better, else "".
        low, high, at: ends of the interval, and the value, as places of 0 to 1 on an axis with 0 in its middle; None
            without an interval.
    """

    value: str
    interval: str = ""
    p: str = ""
    verdict: str = ""
    low: float | None = None
    high: float | None = None
    at: float | None = None


@dataclass(frozen=True)
class ModelCell:
    """What one model scores, and how far that is from the first one, which has no difference."""

    value: str
    interval: str
    difference: DifferenceCell | None


@dataclass(frozen=True)
class ComparedRow:
    """One metric of all models."""

    metric: str
    title: str
    cells: list[ModelCell]


@dataclass(frozen=True)
class Headline:
    """The metric that stands for a task.

    Attributes:
        title: data and task, as far as there are several.
        metric: in words.
        model: the one that is held against the first.
        values: "41.0 % → 44.1 %".
        difference: of it.
        sentence: what may be said of it.
    """

    title: str
    metric: str
    model: str
    values: str
    difference: DifferenceCell
    sentence: str


def share(metric: str) -> bool:
    """Whether a metric is shown in per cent, and differences of it in points."""
    return is_share(metric) or any(part in metric for part in _SHARES)


def rows(metrics: dict[str, MetricCompared]) -> list[ComparedRow]:
    """The rows of one task; metrics that are shares have one axis."""
    reach = max((_reach(one) for name, one in metrics.items() if share(name)), default=0.0)
    return [
        ComparedRow(name, title(name), _cells(name, one, reach if share(name) else _reach(one)))
        for name, one in metrics.items()
    ]


def title(metric: str) -> str:
    """A metric's name in words."""
    words = metric.replace("image_to_text_", "image → text ").replace("text_to_image_", "text → image ")
    return readable(words).replace("acc1", "accuracy").replace("recall@", "R@").replace("acc5", "accuracy in 5")


def headlines(page: ComparisonPage) -> list[Headline]:
    """One for each task and each model but the first."""
    found = []
    for data in page.data:
        for task, metrics in data.tasks.items():
            if task in _WITHOUT_HEADLINE:
                continue
            name = _PRIMARY.get(task, "")
            if name not in metrics or not any(metrics[name].differences):
                name = next((other for other, one in metrics.items() if any(one.differences) and direction(other)), "")
            if name:
                of = [data.name] if len(page.data) > 1 else []
                label = " · ".join([*of, task.replace("_", "-")])
                found += _headlines(label, name, metrics[name], page)
    return found


def _headlines(label: str, name: str, one: MetricCompared, page: ComparisonPage) -> list[Headline]:
    cells = _cells(name, one, _reach(one))
    return [
        Headline(
            label,
            title(name),
            model,
            f"{cells[0].value} → {cell.value}",
            cell.difference,
            _sentence(name, difference, page.models[0], model, page.tests),
        )
        for model, cell, difference in zip(page.models[1:], cells[1:], one.differences[1:], strict=True)
        if cell.difference is not None and difference is not None
    ]


def _sentence(name: str, found: Difference, first: str, other: str, tests: int) -> str:
    better = other if found.value * (direction(name) or 1) > 0 else first
    if found.adjusted >= ALARM:
        if found.p >= ALARM:
            return "These pictures do not tell the two apart."
        return f"{better} may be better; among {tests} tests that is not sure."
    return f"{better} is better." if direction(name) else f"{other} has {'more' if found.value > 0 else 'less'}."


def _cells(name: str, one: MetricCompared, reach: float) -> list[ModelCell]:
    found = []
    for value, ends, moved in zip(one.values, one.intervals, one.differences, strict=True):
        interval = "" if ends is None else " – ".join(_number(name, end) for end in ends)
        found.append(ModelCell(_number(name, value), interval, None if moved is None else _moved(name, moved, reach)))
    return found


def _moved(name: str, found: Difference, reach: float) -> DifferenceCell:
    low, high = found.interval
    gain = found.value * direction(name)
    verdict = "" if found.adjusted >= ALARM or not gain else "win" if gain > 0 else "lose"
    places = [0.5 + 0.5 * end / reach if reach else 0.5 for end in (low, high, found.value)]
    return DifferenceCell(
        signed(name, found.value),
        f"{signed(name, low)} to {signed(name, high)}",
        p_text(found.adjusted),
        verdict,
        *places,
    )


def _reach(one: MetricCompared) -> float:
    ends = [abs(end) for moved in one.differences if moved for end in (*moved.interval, moved.value)]
    return max(ends, default=0.0)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return DASH
    text = f"{100 * value:.1f} %" if share(name) else format_metric(name, value)
    return text.replace("-", "−")


def signed(name: str, value: float) -> str:
    """+3.1 for shares, in points; three digits of everything else."""
    text = f"{100 * value:+.1f}" if share(name) else f"{value:+.3g}"
    return text.replace("-", "−") if float(text) else "0"


def p_text(p: float) -> str:
    """Of a p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {min(p, 1):.2f}"
