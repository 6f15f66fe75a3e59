"""Each task as a function of what all of them share; adding one is a name in `task_names` and a line in TABLE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmcontrast.data.rows import ColumnedSource, PairSource
from mmcontrast.errors import DataError
from mmcontrast.evaluation.calibration import calibration_task
from mmcontrast.evaluation.caption_selection import select_first_captions, select_hard_captions
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.geometry import geometry_task
from mmcontrast.evaluation.multi_label import multi_label
from mmcontrast.evaluation.multilingual import multilingual
from mmcontrast.evaluation.outcomes import Classified, Details, TaskResult, accuracy_items, ranking_items
from mmcontrast.evaluation.probe_tasks import run_probe
from mmcontrast.evaluation.retrieval import check_ks, rank_pairs, summarise
from mmcontrast.evaluation.robustness import Score, robustness
from mmcontrast.evaluation.same_kind import same_kind_task
from mmcontrast.evaluation.task_context import ClassPrompts, TaskContext
from mmcontrast.evaluation.winoground import winoground
from mmcontrast.evaluation.zero_shot import classify, zero_shot_logits
from mmcontrast.task_names import Task


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
    return _classified(context.classes, context.classes.features)


def _classified(made: ClassPrompts, features: Tensor) -> TaskResult:
    found = classify(features, made.labels, made.weights, made.spelled)
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


def _robustness(context: TaskContext) -> TaskResult:
    data, notes = context.data, []
    scores: dict[str, Score] = {}
    if len(data.text_features):
        scores["mean_recall"] = lambda features: retrieval(
            replace(context, data=replace(data, image_features=features))
        )
        notes += _small_gallery_notes(data, context.ks, context.strict)
    labelled = any(label is not None for label in data.labels)
    made: ClassPrompts | None = None
    if labelled and scores and data.label_names is None and not isinstance(context.classnames, list | tuple):
        notes.append("robustness: the labels are numbers without names, so that acc1 is left out")
    elif labelled:
        made = context.classes
        notes += made.notes
        scores["acc1"] = lambda features: _classified(context.classes, features[context.classes.pictures])
    found = robustness(data, context.embed_corrupted, scores)
    return replace(found, notes=notes, spelled=None if made is None else _spelled(made))


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
    "caption_selection": lambda c: select_first_captions(c.data, _question_width(c.data, c.source)),
    "multi_label": lambda c: multi_label(c.data, c.encode, c.classnames, c.words, c.templates),
    "winoground": lambda c: winoground(c.data),
    "image_to_image": _same_kind("image_to_image"),
    "text_to_text": _same_kind("text_to_text"),
    "zero_shot": zero_shot,
    "calibration": calibration,
    "linear_probe": _probe("linear_probe"),
    "knn": _probe("knn"),
    "few_shot": _probe("few_shot"),
    "multilingual": lambda c: multilingual(c.data, c.source, c.positives, c.ks, c.strict),
    "robustness": _robustness,
}
"""In the order in which several are run."""


def _question_width(data: EmbeddedData, source: PairSource) -> int | None:
    """How many captions a question has, where columns say so; a single column may hold a list."""
    width = len(source.columns.captions)
    if width < 2:
        return None
    if isinstance(source, ColumnedSource):
        for position in data.positions.tolist():
            numbers = source.caption_columns(position)
            if len(numbers) % width == 0 and numbers != [place % width for place in range(len(numbers))]:
                raise DataError(
                    f"{data.name}: row {position} has several captions in one column: "
                    "caption_selection takes one of each column, or one column with a list, the right caption first"
                )
    return width


def _small_gallery_notes(data: EmbeddedData, ks: Sequence[int], strict: bool) -> list[str]:
    notes = []
    for size, what in ((len(data.image_features), "pictures"), (len(data.text_features), "captions")):
        if strict:
            check_ks(ks, size, what)
        elif large := [str(k) for k in ks if k > size]:
            notes.append(f"recall at {', '.join(large)} is not defined among {size} {what}")
    return notes
