"""Each task as a function of what all of them share; adding one is a name in `task_names` and a line in TABLE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError
from mmcontrast.evaluation.calibration import calibration_task
from mmcontrast.evaluation.caption_selection import select_first_captions, select_hard_captions
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.geometry import geometry_task
from mmcontrast.evaluation.multi_label import multi_label
from mmcontrast.evaluation.outcomes import Classified, Details, TaskResult, accuracy_items, ranking_items
from mmcontrast.evaluation.probe_tasks import run_probe
from mmcontrast.evaluation.retrieval import check_ks, rank_pairs, summarise
from mmcontrast.evaluation.same_kind import same_kind_task
from mmcontrast.evaluation.winoground import winoground
from mmcontrast.evaluation.zero_shot import class_weights, classify, zero_shot_logits
from mmcontrast.task_names import Task


class ClassPrompts(NamedTuple):
    """Labelled pictures and a classifier made of prompts.

    Attributes:
        features: (k, d) of the pictures that have a label.
        labels: (k,) int64 in 0..c-1.
        pictures: (k,) int64, which they are.
        weights: (c, d).
        names: c, as the data set has them.
        spelled: c, as the prompts have them.
        notes: on pictures without label.
    """

    features: Tensor
    labels: Tensor
    pictures: Tensor
    weights: Tensor
    names: list[str]
    spelled: list[str]
    notes: list[str]


@dataclass(frozen=True)
class TaskContext:
    """What the tasks of one evaluation share; what only some of them need is made when the first one asks.

    Attributes:
        data: embedded.
        source: what it was embedded from.
        encode: texts to (n, d) features.
        embed_train: gives the embedded train pictures and notes on them; None without.
        positives, ks, strict, templates, classnames, words, logit_scale, seed: as for `run_tasks`.
    """

    data: EmbeddedData
    source: PairSource
    encode: Callable[[list[str]], Tensor]
    embed_train: Callable[[], tuple[EmbeddedData, list[str]]] | None
    positives: str
    ks: Sequence[int]
    strict: bool
    templates: list[str]
    classnames: Mapping[str, str] | Sequence[str] | None
    words: set[str]
    logit_scale: float
    seed: int

    @cached_property
    def classes(self) -> ClassPrompts:
        """Raises DataError where there are no labels, or labels without names."""
        names = _class_names(self.data, self.classnames)
        spelled = prompt_classnames(names, self.classnames, self.words)
        weights = class_weights(self.encode, spelled, self.templates)
        numbers = [-1 if label is None else label for label in self.data.labels]
        pictures = torch.tensor([place for place, number in enumerate(numbers) if number >= 0], dtype=torch.int64)
        notes = []
        if missing := len(numbers) - len(pictures):
            notes.append(f"{missing} of {len(numbers)} pictures have no label and take no part in zero_shot")
        labels = torch.tensor(numbers)[pictures]
        return ClassPrompts(self.data.image_features[pictures], labels, pictures, weights, names, spelled, notes)

    @cached_property
    def train(self) -> tuple[EmbeddedData, list[str]]:
        """The embedded train pictures and notes on them."""
        if self.embed_train is None:
            raise DataError("a probe learns from labelled pictures: name them in --train-data (train_data in a suite)")
        return self.embed_train()


def retrieval(context: TaskContext) -> TaskResult:
    """Retrieval both ways."""
    data, ks = context.data, context.ks
    notes = _small_gallery_notes(data, ks, context.strict)
    by_image, by_text = rank_pairs(data.image_features, data.text_features, data.positive_keys(context.positives))
    found = summarise(by_image, by_text, ks)
    items = ranking_items("image_to_text_", by_image, torch.arange(len(data.positions)), found)
    items |= ranking_items("text_to_image_", by_text, data.text_images, found)
    means = {
        "map@r": [name for name in items if name.endswith("_map@r")],
        "r_precision": [name for name in items if name.endswith("_r_precision")],
        "mean_recall": [name for name in items if "_recall@" in name],
    }
    return TaskResult(found, Details(items, means), notes, rankings=(by_image, by_text))


def zero_shot(context: TaskContext) -> TaskResult:
    """Classification by prompts."""
    made = context.classes
    found = classify(made.features, made.labels, made.weights, made.spelled)
    classified = Classified(found.labels, found.predictions, found.ranks, found.class_names, made.pictures)
    details = Details(accuracy_items(found.ranks, made.pictures, found.metrics), classified=classified)
    notes = [*made.notes, *found.notes]
    return TaskResult(found.metrics, details, notes, zero_shot=found, spelled=_spelled(made))


def calibration(context: TaskContext) -> TaskResult:
    """Calibration of the probabilities by prompts."""
    made = context.classes
    logits = context.logit_scale / 100 * zero_shot_logits(made.features, made.weights)
    found = calibration_task(logits, made.labels, made.pictures, seed=context.seed)
    return TaskResult(found.metrics, found.details, made.notes, spelled=_spelled(made))


def _spelled(made: ClassPrompts) -> dict[str, str]:
    return dict(zip(made.names, made.spelled, strict=True))


def _probe(task: str) -> Callable[[TaskContext], TaskResult]:
    def probe(context: TaskContext) -> TaskResult:
        train, notes = context.train
        found = run_probe(task, train, context.data, seed=context.seed)
        return TaskResult(found.metrics, found.details, [*notes, *found.notes])

    return probe


def _same_kind(task: str) -> Callable[[TaskContext], TaskResult]:
    return lambda context: same_kind_task(task, context.data, context.positives, context.ks, context.strict)


TABLE: dict[Task, Callable[[TaskContext], TaskResult]] = {
    "retrieval": retrieval,
    "geometry": lambda c: geometry_task(c.data.image_features, c.data.text_features, c.data.text_images, seed=c.seed),
    "hard_captions": lambda c: select_hard_captions(c.data, c.encode, seed=c.seed),
    "caption_selection": lambda c: select_first_captions(c.data, _caption_columns(c.source)),
    "multi_label": lambda c: multi_label(c.data, c.encode, c.classnames, c.words, c.templates),
    "winoground": lambda c: winoground(c.data),
    "image_to_image": _same_kind("image_to_image"),
    "text_to_text": _same_kind("text_to_text"),
    "zero_shot": zero_shot,
    "calibration": calibration,
    "linear_probe": _probe("linear_probe"),
    "knn": _probe("knn"),
    "few_shot": _probe("few_shot"),
}
"""In the order in which several are run."""


def _caption_columns(source: PairSource) -> int | None:
    """How many captions a row has, where columns say so; a single column may hold a list."""
    columns = len(source.columns.captions)
    return columns if columns > 1 else None


def _class_names(data: EmbeddedData, classnames: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    if all(label is None for label in data.labels):
        raise DataError(f"{data.name}: zero_shot needs a label column, and it has none (data.label_column)")
    if data.label_names is not None:
        return data.label_names
    if classnames is None or isinstance(classnames, Mapping):
        raise DataError(
            f"{data.name}: its labels are numbers without names: list the names in evaluation.classnames, "
            "or name a column of class names in data.label_column"
        )
    return list(classnames)


def _small_gallery_notes(data: EmbeddedData, ks: Sequence[int], strict: bool) -> list[str]:
    notes = []
    for size, what in ((len(data.image_features), "pictures"), (len(data.text_features), "captions")):
        if strict:
            check_ks(ks, size, what)
        elif large := [str(k) for k in ks if k > size]:
            notes.append(f"recall at {', '.join(large)} is not defined among {size} {what}")
    return notes
