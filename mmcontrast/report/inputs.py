"""What a report is made of: plain arrays, lists and strings, any of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcontrast.report.negatives import NegativesView
from mmcontrast.types import BadRow

if TYPE_CHECKING:
    from mmcontrast.report.panes import Pane


@dataclass(frozen=True)
class RetrievedItem:
    """One of the best matches of a query.

    Attributes:
        score: cosine similarity to the query.
        hit: it belongs to the query.
        caption: text of a found caption, or of a found picture for those who do not see it.
        thumbnail: JPEG or PNG bytes of a found picture.
        times: so many equal captions, one after another, are shown as this one.
    """

    score: float
    hit: bool
    caption: str | None = None
    thumbnail: bytes | None = None
    times: int = 1


@dataclass(frozen=True)
class RetrievalExample:
    """A query, its best matches in order, and where the true one stands.

    Attributes:
        items: the best matches, best first.
        rank: of the best-placed item that belongs to the query, from 1.
        gallery_size: how many items were searched.
        captions: the query's caption, or all captions of a query picture.
        thumbnail: JPEG or PNG bytes of a query picture; for a query text, of the picture it belongs to.
        best: the best-placed item that belongs to the query, which stands at `rank`.
    """

    items: Sequence[RetrievedItem]
    rank: int
    gallery_size: int
    captions: Sequence[str] = ()
    thumbnail: bytes | None = None
    best: RetrievedItem | None = None


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows; whatever is empty is left out of it.

    Attributes:
        run_name: headline.
        config: the resolved config, nested or flat.
        history: the lines of metrics.jsonl. Lines with "split" are evaluations.
        results: {task: {metric: value}}; None and NaN are shown as a dash.
        chance: the same for a model that guesses; shown beside the results where given.
        intervals: {task: {metric: (low, high)}} of the results, at 95 %; shown beneath them where given.
        facts: short label -> value, shown under the headline (parameters, data set, duration, ...).
        image_queries: pictures that looked for captions.
        text_queries: captions that looked for pictures.
        confusion: (c, c) counts, rows = true class, columns = predicted class, and the c class names.
        panes: {"retrieval" or "zero_shot": panes} that stand beneath the two above.
        bad_rows: rows that could not be used.
        negatives: label -> value about who was a negative of whom; numbers in [0, 1] are shown as per cent.
        inspection: the pairs behind those numbers, or None.
        notes: sentences that the reader should know.
    """

    run_name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    chance: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, tuple[float, float] | None]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    image_queries: Sequence[RetrievalExample] = ()
    text_queries: Sequence[RetrievalExample] = ()
    confusion: tuple[np.ndarray[Any, Any] | Sequence[Sequence[int]], Sequence[str]] | None = None
    panes: Mapping[str, Sequence[Pane]] = field(default_factory=dict)
    bad_rows: Sequence[BadRow] = ()
    negatives: Mapping[str, float | str] = field(default_factory=dict)
    inspection: NegativesView | None = None
    notes: Sequence[str] = ()
