"""Renders the report and writes it in one go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmcontrast.report import negatives, views
from mmcontrast.report.curves import charts, negative_charts
from mmcontrast.report.inputs import ReportInputs
from mmcontrast.report.negatives import NegativesView
from mmcontrast.report.plots import chart_svg

MAX_BARS = 1000
"""Classes of a section whose bars are all shown."""


def environment() -> Environment:
    """Of the templates."""
    # Captions are strangers' input: everything is escaped unless it is Markup made by ourselves.
    made = Environment(
        loader=PackageLoader("mmcontrast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"data_uri": views.data_uri, "readable": views.readable, "shorten": views.shorten}
    made.globals["max_bars"] = MAX_BARS
    return made


def render_report(inputs: ReportInputs) -> str:
    """The whole page: no script, no request to anywhere, pictures as data URIs."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            inputs=inputs,
            headlines=views.headlines(inputs),
            charts=[(chart.title, chart_svg(chart)) for chart in charts(inputs.history)],
            tables=views.metric_tables(inputs),
            directions=views.direction_tables(inputs),
            maps=[pane.map for panes in inputs.panes.values() for pane in panes if pane.map],
            confusion=views.confusion_view(inputs.confusion) if inputs.confusion is not None else None,
            bad_row_summary=views.bad_row_summary(inputs.bad_rows),
            max_bad_rows=views.MAX_BAD_ROWS,
            negatives=views.negative_rows(inputs),
            negative_charts=[(chart.title, chart_svg(chart)) for chart in negative_charts(inputs.history)],
            drawn=_Drawn(inputs.inspection),
            config=views.config_rows(inputs.config),
        )
    )


def write_report(inputs: ReportInputs, path: str | Path) -> Path:
    """Write the page to `path`; a reader never sees half of it, and a failure leaves the old one in place."""
    return write_page(render_report(inputs), Path(path))


def render_negatives(view: NegativesView, *, name: str, facts: Mapping[str, str] | None = None) -> str:
    """A page about the negatives of a data set alone."""
    template = environment().get_template("negatives_page.html.j2")
    return template.render(view=view, drawn=_Drawn(view), name=name, facts=facts or {})


def write_negatives(
    view: NegativesView, path: str | Path, *, name: str, facts: Mapping[str, str] | None = None
) -> Path:
    """Write that page, as `write_report` does."""
    return write_page(render_negatives(view, name=name, facts=facts), Path(path))


@dataclass(frozen=True)
class _Drawn:
    """The drawings of a view, made when the template asks for them."""

    view: NegativesView | None

    @property
    def map_svg(self) -> Markup:
        return negatives.map_svg(self.view.map) if self.view and self.view.map else Markup()

    @property
    def batch_svg(self) -> Markup:
        return negatives.batch_svg(self.view.batch) if self.view and self.view.batch else Markup()

    @property
    def reliability_svg(self) -> Markup:
        return negatives.reliability_svg(self.view.reliability) if self.view and self.view.reliability else Markup()

    wrong = staticmethod(negatives.same_in_words)


def write_page(page: str, path: Path) -> Path:
    """Write a page aside and then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
