"""`mmcontrast evaluate --report`: evaluations as they come in, one page in the end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mmcontrast.build.panes import panes
from mmcontrast.build.pictures import Pictures, Room
from mmcontrast.build.remarks import remarks
from mmcontrast.build.reporting import INTERVALS, chance
from mmcontrast.build.search_panes import Judge
from mmcontrast.embedding import embed_texts
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.models import DualEncoder
from mmcontrast.report.evaluation import EvaluationPage, write_evaluation
from mmcontrast.report.panes import PAGE_LIMIT, Section

_RESERVED = 1_000_000
"""Bytes of a page for its text."""


class EvaluationReport:
    """Collects the sections of a page.

    Args:
        name: headline, of the model.
        expected: how many evaluations will be added: each gets its share of the page's room for pictures.
        batch_size: captions embedded at a time.
    """

    def __init__(self, name: str, *, expected: int = 1, batch_size: int = 256) -> None:
        self.name, self._left, self._batch_size = name, expected, batch_size
        self._room = PAGE_LIMIT - _RESERVED
        self._sections: list[Section] = []

    def add(
        self,
        evaluation: Evaluation,
        encoder: DualEncoder,
        *,
        name: str | None = None,
        intervals: Mapping[str, Mapping[str, tuple[float, float] | None]] | None = None,
    ) -> None:
        """The tasks of an evaluation, each a section.

        Args:
            evaluation: with its source.
            encoder: the model it is of.
            name: of the section, where there is one only; the task by default.
            intervals: {task: {metric: (low, high)}} of the results.
        """
        share = self._room // max(1, self._left)
        self._left -= 1
        tasks = list(evaluation.results)
        for number, task in enumerate(tasks):
            room = Room(share // (len(tasks) - number))
            before = room.left
            self._sections.append(
                self._section(task, evaluation, encoder, room, name or task, (intervals or {}).get(task, {}))
            )
            share, self._room = share - (before - room.left), self._room - (before - room.left)

    def _section(
        self,
        task: str,
        evaluation: Evaluation,
        encoder: DualEncoder,
        room: Room,
        name: str,
        intervals: Mapping[str, tuple[float, float] | None],
    ) -> Section:
        assert evaluation.source is not None
        data = evaluation.data
        judge = Judge(
            encoder.tokenizer,
            encoder.tokenizer.vocab_size,
            partial(embed_texts, encoder, batch_size=self._batch_size),
            encoder.logit_scale.detach().exp().item(),
        )
        shown = panes(
            task, evaluation, Pictures(data, evaluation.source, room), judge, name=f"map-{len(self._sections) + 1}"
        )
        refused = f"{room.refused} pictures are left out, so that the page stays below {PAGE_LIMIT // 10**6} MB"
        facts = {"data": data.name, "pictures": f"{len(data.positions):,}"}
        if data.captions:
            facts["captions"] = f"{len(data.captions):,}"
        return Section(
            name,
            task,
            facts,
            results=evaluation.results[task],
            chance=chance(evaluation).get(task, {}),
            intervals=intervals,
            notes=[
                *remarks(evaluation),
                *([INTERVALS] if intervals else []),
                *([refused] if room.refused else []),
            ],
            panes=shown,
        )

    def write(self, path: str | Path) -> Path:
        """The page of all that was added."""
        short = "/".join(Path(self.name).parts[-2:])
        facts = {"model": self.name} if short != self.name else {}
        return write_evaluation(EvaluationPage(short, facts, self._sections), path)
