"""What an evaluation shows, as plain values: a section a task, made of panes that are turned like tabs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from mmcontrast.report.inputs import RetrievalExample
from mmcontrast.report.map import PictureMap
from mmcontrast.report.negatives import ShownPair

PAGE_LIMIT = 15_000_000
"""Bytes that a page stays below."""
Thumbnail = Callable[[int], bytes | None]
"""A picture of the data as JPEG bytes, or None where the page has no room left for it."""


@dataclass(frozen=True)
class ClassBar:
    """A class: how many of its `support` pictures are right."""

    name: str
    right: int
    support: int

    @property
    def recall(self) -> float:
        """Share that is right."""
        return self.right / self.support


@dataclass(frozen=True)
class ClassifiedPicture:
    """A picture with its class and the one it was given.

    Attributes:
        thumbnail: JPEG bytes, or None.
        true: name of its class.
        predicted: name of the class it was given.
        probability: that the model states for the predicted class, or None.
        true_probability: the same for the true class.
        note: where it comes from.
    """

    thumbnail: bytes | None
    true: str
    predicted: str
    probability: float | None = None
    true_probability: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ConfusedPair:
    """Pictures of one class that were taken for another one.

    Attributes:
        true, predicted: the classes.
        count, support: so many of so many pictures of the true class.
        examples: some of them, the surest first.
        like: a picture that is rightly of the predicted class, or None.
    """

    true: str
    predicted: str
    count: int
    support: int
    examples: Sequence[ClassifiedPicture]
    like: ClassifiedPicture | None = None


@dataclass(frozen=True)
class Hub:
    """What stands first for many queries: so many of all `queries`."""

    count: int
    queries: int
    caption: str = ""
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Choice:
    """A picture with a right and a wrong caption and their cosines; the kind of change that made the wrong one."""

    thumbnail: bytes | None
    right: str
    wrong: str
    right_score: float
    wrong_score: float
    kind: str = ""


@dataclass(frozen=True)
class Curve:
    """A reliability diagram, drawn, and label -> value beside it."""

    svg: Markup
    numbers: Mapping[str, str] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Pane:
    """One tab. What is filled says what it is.

    Attributes:
        title: on the tab.
        lead: a sentence or two on how to read it.
        bars: classes, from the best.
        confusion: a `views.ConfusionView`.
        confused: pairs of classes.
        mistakes: wrongly classified pictures.
        curves: reliability diagrams.
        text_queries, image_queries: captions, or pictures, that looked for others.
        svg: a chart.
        pairs: suspected false negatives.
        hubs: what stands first too often.
        choices: captions that were taken for right.
        map: pictures and captions on a plane.
    """

    title: str
    lead: str = ""
    bars: Sequence[ClassBar] = ()
    confusion: Any = None
    confused: Sequence[ConfusedPair] = ()
    mistakes: Sequence[ClassifiedPicture] = ()
    curves: Sequence[Curve] = ()
    text_queries: Sequence[RetrievalExample] = ()
    image_queries: Sequence[RetrievalExample] = ()
    svg: Markup | None = None
    pairs: Sequence[ShownPair] = ()
    hubs: Sequence[Hub] = ()
    choices: Sequence[Choice] = ()
    map: PictureMap | None = None


@dataclass(frozen=True)
class Section:
    """One evaluation: a task on a data set.

    Attributes:
        name: in the suite, or the task.
        task: of the table.
        facts: label -> value: data, pictures, captions...
        results, chance, intervals: of the metrics, see `ReportInputs`.
        notes: what the reader should know.
        panes: the tabs.
    """

    name: str
    task: str
    facts: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, float | None] = field(default_factory=dict)
    chance: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    notes: Sequence[str] = ()
    panes: Sequence[Pane] = ()
