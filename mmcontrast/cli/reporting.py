"""`mmcontrast evaluate --report`: the page beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcontrast.cli.output import check_json_output, show_remark

if TYPE_CHECKING:
    from mmcontrast.build import SharedWork
    from mmcontrast.evaluation.tasks import Evaluation

Report = Annotated[Path | None, typer.Option("--report", help="HTML page to write, with pictures.")]


class ReportPage:
    """The page of --report; does nothing where none is wanted.

    Args:
        path: of the page, or None.
        model: that is measured.
        expected: how many evaluations will be added.
        batch_size: captions embedded at a time.
    """

    def __init__(self, path: Path | None, model: str, *, expected: int = 1, batch_size: int = 256) -> None:
        self._path, self._model = path, model
        if path is None:
            return
        from mmcontrast.build.evaluation_report import EvaluationReport

        self._page = EvaluationReport(model, expected=expected, batch_size=batch_size)

    def add(
        self,
        evaluation: Evaluation,
        shared: SharedWork,
        intervals: Mapping[str, Mapping[str, tuple[float, float] | None]],
        *,
        name: str | None = None,
    ) -> None:
        """A section for each task of an evaluation, with the intervals of its metrics."""
        if self._path is not None:
            self._page.add(evaluation, shared.encoder(self._model), name=name, intervals=intervals)

    def write(self) -> None:
        """Write the page and say where it is, on stderr: stdout may be JSON."""
        if self._path is not None:
            show_remark(f"report: {self._page.write(self._path)}")


def check_report(path: Path | None) -> None:
    """Before the work and not after it: whether the page can be written."""
    check_json_output(path, "--report")
