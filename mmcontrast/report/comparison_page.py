"""The page of a comparison, as HTML and as Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmcontrast.report.comparison import ComparisonPage
from mmcontrast.report.comparison_rows import headlines, rows
from mmcontrast.report.html import environment, write_page

MAX_CLASSES = 40
"""Classes shown of one task: half of them the largest gains, half the largest losses."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def render_comparison(page: ComparisonPage) -> str:
    """The HTML page: no script, no request to anywhere, pictures as data URIs."""
    return environment().get_template("compare.html.j2").render(**_shown(page))


def render_comparison_markdown(page: ComparisonPage) -> str:
    """The numbers as Markdown tables, without pictures."""
    made = Environment(
        loader=PackageLoader("mmcontrast.report", "."),
        autoescape=False,  # Markdown; strangers' words go through `plain`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["plain"] = _plain
    return made.get_template("compare.md.j2").render(**_shown(page))


def write_comparison(page: ComparisonPage, path: str | Path) -> Path:
    """Write the page as its name ends: .md is Markdown, everything else HTML."""
    path = Path(path)
    text = render_comparison_markdown(page) if path.suffix.lower() == ".md" else render_comparison(page)
    return write_page(text, path)


def _shown(page: ComparisonPage) -> dict[str, object]:
    return {
        "page": page,
        "headlines": headlines(page),
        "tables": [{task: rows(metrics) for task, metrics in data.tasks.items()} for data in page.data],
        "letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "max_classes": MAX_CLASSES,
        "level": f"{100 * page.level:g} %",
    }


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
