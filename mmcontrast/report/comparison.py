"""What the page of a comparison is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmcontrast.evaluation.comparison import TasksCompared
from mmcontrast.evaluation.contests import ClassContest, Race, Tally
from mmcontrast.report.inputs import RetrievedItem


@dataclass(frozen=True)
class Answer:
    """What one model made of a query.

    Attributes:
        rank: of the best-placed item that belongs to the query, from 1.
        items: its best matches, best first.
    """

    rank: int
    items: Sequence[RetrievedItem]


@dataclass(frozen=True)
class DisputedQuery:
    """A query that two models answer differently.

    Attributes:
        winner: 0 for the first model, 1 for the other.
        answers: of the first, and of the other.
        gallery_size: how many items were searched.
        captions: the query's caption, or all captions of a query picture.
        thumbnail: of a query picture; of a query text, of the picture it belongs to.
    """

    winner: int
    answers: tuple[Answer, Answer]
    gallery_size: int
    captions: Sequence[str]
    thumbnail: bytes


@dataclass(frozen=True)
class DisputedPicture:
    """A picture that one of two models classifies rightly.

    Attributes:
        thumbnail: of it.
        truth: its class.
        taken_for: by the model that is wrong.
    """

    thumbnail: bytes
    truth: str
    taken_for: str


@dataclass(frozen=True)
class Duel:
    """The first model and another one on one data set; whatever is empty is left out of the page.

    Attributes:
        other: place of the other model, 1...
        races: {title: who answers more queries better}.
        tallies: {title: who gets what right}.
        classes: {task: contests}, the other's largest gain first.
        text_queries, image_queries: on which they differ most.
        only_first, only_other: pictures that only one of them classifies rightly.
    """

    other: int
    races: Mapping[str, Race] = field(default_factory=dict)
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    classes: Mapping[str, Sequence[ClassContest]] = field(default_factory=dict)
    text_queries: Sequence[DisputedQuery] = ()
    image_queries: Sequence[DisputedQuery] = ()
    only_first: Sequence[DisputedPicture] = ()
    only_other: Sequence[DisputedPicture] = ()


@dataclass(frozen=True)
class DataPage:
    """One data set.

    Attributes:
        name: of it.
        facts: short label -> value.
        tasks: the numbers.
        duels: of the first model with each of the others.
    """

    name: str
    facts: Mapping[str, str]
    tasks: TasksCompared
    duels: Sequence[Duel]


@dataclass(frozen=True)
class ComparisonPage:
    """The page.

    Attributes:
        models: their names; the first is the one that all others are compared with.
        data: the data sets.
        level: of the intervals.
        tests: how many p values there are, which they are corrected for.
        notes: what the reader should know.
    """

    models: Sequence[str]
    data: Sequence[DataPage]
    level: float
    tests: int
    notes: Sequence[str] = ()
