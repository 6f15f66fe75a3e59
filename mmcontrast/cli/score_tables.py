"""Scores as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from mmcontrast.errors import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

LONGEST_CELL = 300
Scores = Mapping[str, Mapping[str, float | None]]
Ranges = Mapping[str, Mapping[str, tuple[float, float] | None]]
Metrics = Mapping[str, float | None]


def score_tables(results: Scores, ranges: Ranges | None = None) -> Iterator[Table]:
    """One table of all metrics, with their 95 % intervals; those named ROW/COLUMN, as of robustness, stand in grids."""
    from rich.table import Table

    table = Table("task", "metric", "value", *(["95 % interval"] if ranges else []))
    for task, metrics in results.items():
        for metric, value in metrics.items():
            if "/" not in metric:
                more = [_range(ranges.get(task, {}).get(metric))] if ranges else []
                table.add_row(cell(task), cell(metric), _number(value), *more)
        table.add_section()
    if table.row_count:
        yield table
    for task, metrics in results.items():
        for rows in _grids(metrics):
            yield _grid(task, rows)


def _grid(task: str, rows: Mapping[str, Metrics]) -> Table:
    from rich.table import Table

    longest_first = sorted(rows.values(), key=len, reverse=True)  # it has the columns in their order
    columns = list(dict.fromkeys(column for row in longest_first for column in row))
    grid = Table()
    grid.add_column(cell(task), overflow="fold", min_width=min(20, max(map(len, [task, *rows]))))
    for column in columns:
        heading = cell(short(column))
        heading.plain = heading.plain.replace(" ", "\n")
        grid.add_column(heading, justify="right")
    for name, row in rows.items():
        # Shares: three digits are enough, and fit.
        numbers = ("-" if value is None else f"{value:.3f}" for value in row.values())
        by_column = dict(zip(row, numbers, strict=True))
        grid.add_row(cell(name), *(by_column.get(column, "") for column in columns))
    return grid


def _grids(metrics: Metrics) -> list[dict[str, dict[str, float | None]]]:
    """{row: {column: value}} for each group of rows that have columns in common."""
    rows: dict[str, dict[str, float | None]] = {}
    for metric, value in metrics.items():
        place, slash, column = metric.rpartition("/")
        if slash:
            rows.setdefault(place, {})[column] = value
    grids: list[dict[str, dict[str, float | None]]] = []
    for name, row in rows.items():
        fitting = (grid for grid in grids if any(row.keys() & other.keys() for other in grid.values()))
        if (grid := next(fitting, None)) is None:
            grids.append(grid := {})
        grid[name] = row
    return grids


def short(metric: str) -> str:
    """Many columns have to fit into a terminal."""
    return (
        metric.replace("image_to_text_", "i→t ")
        .replace("text_to_image_", "t→i ")
        .replace("recall@", "R@")
        .replace("_", " ")
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _range(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def cell(text: str) -> Text:
    """Text in a table as it stands: no markup, nothing that a terminal would obey."""
    from rich.text import Text

    return Text(printable(text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "..."))
