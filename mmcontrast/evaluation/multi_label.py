"""Zero-shot classification of pictures that belong to several classes: mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, LabelScores, TaskResult
from mmcontrast.evaluation.retrieval import check_features
from mmcontrast.evaluation.zero_shot import class_weights


def average_precisions(scores: Tensor, truth: Tensor) -> Tensor:
    """Average precision of each class over the pictures: scikit-learn's, but a tie is decided against the positives.

    AP = mean over the class's pictures of precision at their place.

    Args:
        scores: (n, c).
        truth: (n, c) bool.

    Returns:
        (c,) float64, NaN for a class without pictures.
    """
    found = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for number, (column, right) in enumerate(zip(scores.T, truth.T, strict=True)):
        if not right.any():
            continue
        hits = column[right].sort(descending=True).values
        rivals = column[~right].sort().values
        before = len(rivals) - torch.searchsorted(rivals, hits)  # those that score at least as much
        nth = torch.arange(1, len(hits) + 1)
        found[number] = (nth / (nth + before).double()).mean()
    return found


def multi_label_metrics(image_features: Tensor, weights: Tensor, truth: Tensor) -> Metrics:
    """Mean average precision of the cosines of (n, d) pictures and (c, d) classes; (n, c) bool truth.

    Returns:
        `map` over the classes that have pictures.

    Raises:
        DataError: shapes that do not fit, or no class has a picture.
    """
    return {"map": _map(_scores(image_features, weights, truth), truth)}


def _scores(image_features: Tensor, weights: Tensor, truth: Tensor) -> Tensor:
    check_features(image_features, "image")
    check_features(weights, "class")
    if truth.shape != (len(image_features), len(weights)):
        raise DataError(
            f"{tuple(truth.shape)} labels do not fit {len(image_features)} pictures and {len(weights)} classes"
        )
    return metrics.exact_units(image_features) @ metrics.exact_units(weights).T


def _map(scores: Tensor, truth: Tensor) -> float:
    precisions = average_precisions(scores, truth)
    present = ~precisions.isnan()
    if not present.any():
        raise DataError("no class has a picture: there is no average precision")
    return precisions[present].mean().item()


def multi_label(
    data: EmbeddedData,
    encode: Callable[[list[str]], Tensor],
    classnames: Mapping[str, str] | Sequence[str] | None,
    words: set[str],
    templates: Sequence[str],
) -> TaskResult:
    """Zero-shot mAP of a data set whose captions are the names of classes.

    Args:
        data: see `label_sets`.
        encode: prompts to (n, d) features.
        classnames: as for `prompt_classnames`; a list names all classes as the data does.
        words: whole words of the tokenizer.
        templates: of the prompts.
    """
    names, truth, notes = label_sets(data, None if isinstance(classnames, Mapping) else classnames)
    spelled = prompt_classnames(names, classnames, words)
    scores = _scores(data.image_features, class_weights(encode, spelled, templates), truth)
    details = Details(label_scores=LabelScores(scores, truth, spelled))
    return TaskResult({"map": _map(scores, truth)}, details, notes, spelled=dict(zip(names, spelled, strict=True)))


def label_sets(data: EmbeddedData, class_names: Sequence[str] | None) -> tuple[list[str], Tensor, list[str]]:
    """Captions taken for the classes of their picture.

    Args:
        data: pictures whose captions are names of classes.
        class_names: all of them, or None for those that occur, sorted.

    Returns:
        c names, (n, c) bool truth, and notes.

    Raises:
        DataError: a picture's class is none of the names.
    """
    names = sorted(set(data.captions)) if class_names is None else list(class_names)
    number = {name: place for place, name in enumerate(names)}
    for caption, picture in zip(data.captions, data.text_images.tolist(), strict=True):
        if caption not in number:
            raise DataError(
                f"{data.name}: row {int(data.positions[picture])}: {caption!r} is none of the {len(names)} class names"
            )
    truth = torch.zeros(len(data.positions), len(names), dtype=torch.bool)
    truth[data.text_images, torch.tensor([number[caption] for caption in data.captions])] = True
    absent = [name for name, present in zip(names, truth.any(dim=0).tolist(), strict=True) if not present]
    some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    notes = [f"multi_label: {len(absent)} classes have no pictures and count in no mean: {some}"] if absent else []
    return names, truth, notes
