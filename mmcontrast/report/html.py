"""Renders the report and writes it in one go."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmcontrast.report import views
from mmcontrast.report.curves import charts
from mmcontrast.report.inputs import ReportInputs
from mmcontrast.report.plots import chart_svg


def _environment() -> Environment:
    # Captions are strangers' input: everything is escaped unless it is Markup made by ourselves.
    environment = Environment(
        loader=PackageLoader("mmcontrast.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": views.data_uri, "readable": views.readable}
    return environment


def render_report(inputs: ReportInputs) -> str:
    """The whole page: no script, no request to anywhere, pictures as data URIs."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            inputs=inputs,
            headlines=views.headlines(inputs),
            charts=[(chart.title, chart_svg(chart)) for chart in charts(inputs.history)],
            tables=views.metric_tables(inputs),
            directions=views.direction_tables(inputs),
            confusion=views.confusion_view(inputs.confusion) if inputs.confusion is not None else None,
            bad_row_summary=views.bad_row_summary(inputs.bad_rows),
            max_bad_rows=views.MAX_BAD_ROWS,
            negatives=views.negative_rows(inputs),
            config=views.config_rows(inputs.config),
        )
    )


def write_report(inputs: ReportInputs, path: str | Path) -> Path:
    """Write the page to `path`; a reader never sees half of it, and a failure leaves the old one in place."""
    path = Path(path)
    page = render_report(inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
