"""The page of an evaluation: sections in, one file out that stays below its limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmcontrast.errors import DataError
from mmcontrast.report.html import environment, write_page
from mmcontrast.report.inputs import ReportInputs
from mmcontrast.report.panes import PAGE_LIMIT, Section
from mmcontrast.report.views import MetricRow, direction_tables, headlines, metric_row, metric_tables

_CARDS = 8
_TALLEST = {
    "linear_probe": "acc1",
    "multi_label": "map",
    "hard_captions": "text_acc",
    "caption_selection": "text_acc",
    "winoground": "group_score",
    "image_to_image": "recall@1",
    "text_to_text": "recall@1",
    "calibration": "ece",
}
"""The number of a task that its card shows, where `views.headlines` has none."""


@dataclass(frozen=True)
class EvaluationPage:
    """What the page shows.

    Attributes:
        name: headline.
        facts: label -> value beneath it.
        sections: one an evaluation.
        notes: what the reader should know.
    """

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()


def render_evaluation(page: EvaluationPage) -> str:
    """The page: no script, no request to anywhere, pictures as data URIs."""
    return (
        environment()
        .get_template("evaluation.html.j2")
        .render(
            name=page.name,
            facts=page.facts,
            sections=page.sections,
            notes=page.notes,
            headlines=_headlines(page.sections),
            tables=[_tables(section) for section in page.sections],
            maps=[pane.map for section in page.sections for pane in section.panes if pane.map],
        )
    )


def write_evaluation(page: EvaluationPage, path: str | Path) -> Path:
    """Write the page, in one go; what makes it too large for a page is left out, and that is said.

    Raises:
        DataError: the numbers alone are too many for a page.
    """
    for version in _versions(page):
        text = render_evaluation(version)
        if len(text.encode()) < PAGE_LIMIT:
            return write_page(text, Path(path))
    raise DataError(f"{len(page.sections)} evaluations are too many for a page of {PAGE_LIMIT // 10**6} MB: take fewer")


def _versions(page: EvaluationPage) -> Iterator[EvaluationPage]:
    yield page
    note = f"left out, so that the page stays below {PAGE_LIMIT // 10**6} MB"
    without = [replace(s, panes=[pane for pane in s.panes if pane.map is None]) for s in page.sections]
    yield replace(page, sections=without, notes=[*page.notes, f"the maps are {note}"])
    bare = [replace(section, panes=()) for section in page.sections]
    yield replace(page, sections=bare, notes=[*page.notes, f"all pictures are {note}"])


def _inputs(section: Section) -> ReportInputs:
    return ReportInputs(
        section.name,
        results={section.task: section.results},
        chance={section.task: section.chance},
        intervals={section.task: section.intervals},
    )


def _tables(section: Section) -> tuple[list[MetricRow], list[tuple[str, list[MetricRow | None]]] | None]:
    inputs = _inputs(section)
    (rows,) = metric_tables(inputs).values()
    return rows, next(iter(direction_tables(inputs).values()), None)


def _headlines(sections: Sequence[Section]) -> list[tuple[int, MetricRow]]:
    """(number of the section, its first number); of a single section all that it has."""
    cards: list[tuple[int, MetricRow]] = []
    for number, section in enumerate(sections, start=1):
        rows = headlines(_inputs(section))
        metric = _TALLEST.get(section.task, "")
        if not rows and section.results.get(metric) is not None:
            rows = [metric_row(metric, section.results[metric], section.chance.get(metric))]
        if len(sections) > 1:
            rows = [replace(row, name=f"{section.name}: {row.name}") for row in rows[:1]]
        cards += [(number, row) for row in rows]
    return cards[:_CARDS]
