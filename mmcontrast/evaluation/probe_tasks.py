"""The tasks that learn from labelled train pictures: their classes matched by name with those that are measured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.few_shots import few_shot_ranks, few_shot_summary
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Classified, Details, Items, TaskResult, accuracy_items
from mmcontrast.evaluation.probe import classification_metrics, neighbour_ranks, probe_logits


class LabelledFeatures(NamedTuple):
    """Train pictures and those that are measured, with labels of the same classes.

    Attributes:
        train: (n, d).
        train_labels: (n,) int64 in 0..c-1.
        test: (m, d).
        test_labels: (m,) int64 in 0..c-1.
        class_names: c.
        pictures: (m,) int64, which of the pictures that are measured have a label.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    class_names: list[str]
    pictures: Tensor


def run_probe(task: str, train: EmbeddedData, data: EmbeddedData, *, seed: int = 0) -> TaskResult:
    """One of `mmcontrast.task_names.PROBE_TASKS`."""
    both, notes = match_classes(train, data)
    arguments = (both.train, both.train_labels, both.test, both.test_labels, len(both.class_names))
    if task == "linear_probe":
        found, details = _linear(both, *probe_logits(*arguments, seed=seed))
    elif task == "knn":
        ranks = neighbour_ranks(*arguments, strict=False)
        found, details = _shares({f"acc1@{k}": rank for k, rank in ranks.items()}, both.pictures)
    else:
        drawn = few_shot_ranks(*arguments, seed=seed)
        found = few_shot_summary(drawn)
        _, details = _shares({f"acc1@{k}_shots": ranks for k, ranks in drawn.items()}, both.pictures)
    undefined = [name for name, value in found.items() if value is None and "@" in name]
    if undefined:
        notes.append(f"{task}: too few train pictures for {', '.join(undefined)}")
    return TaskResult(found, details, notes)


def _linear(both: LabelledFeatures, logits: Tensor, strength: float) -> tuple[Metrics, Details]:
    found = classification_metrics(logits, both.test_labels) | {"strength": strength}
    predictions = metrics.predicted_classes(logits, both.test_labels)
    ranks = metrics.class_ranks(logits, both.test_labels)
    classified = Classified(both.test_labels, predictions, ranks, both.class_names, both.pictures)
    return found, Details(accuracy_items(ranks, both.pictures, found), classified=classified)


def _shares(ranks: dict[str, Tensor | None], pictures: Tensor) -> tuple[Metrics, Details]:
    """Of (m,) ranks the share that is 1; of (draws, m) ranks the mean of the draws' shares."""
    items: dict[str, Items] = {}
    for name, rank in ranks.items():
        if rank is not None:
            right = rank <= 1
            items[name] = Items(right if right.ndim == 1 else right.double().mean(dim=0), pictures)
    found: Metrics = dict.fromkeys(ranks)
    return found | {name: item.values.double().mean().item() for name, item in items.items()}, Details(items)


def match_classes(train: EmbeddedData, data: EmbeddedData) -> tuple[LabelledFeatures, list[str]]:
    """Number the classes alike; a picture without label takes no part.

    Raises:
        DataError: one of both has no labels, or names where the other has numbers.
    """
    for part in (train, data):
        if all(label is None for label in part.labels):
            raise DataError(f"{part.name}: a probe needs a label column, and it has none (data.label_column)")
    if (train.label_names is None) != (data.label_names is None):
        named, numbered = (data, train) if train.label_names is None else (train, data)
        raise DataError(
            f"{numbered.name}: its labels are numbers, those of {named.name} are names: take a column of names in both"
        )
    train_classes, test_classes = _classes(train), _classes(data)
    names = [*train_classes, *(name for name in test_classes if name not in set(train_classes))]
    number = {name: place for place, name in enumerate(names)}
    learnt, train_labels = _labelled(train, [number[name] for name in train_classes])
    measured, test_labels = _labelled(data, [number[name] for name in test_classes])
    notes = [
        f"{int((~kept).sum())} of {len(kept)} pictures of {part.name} have no label and take no part in the probes"
        for part, kept in ((train, learnt), (data, measured))
        if not kept.all()
    ]
    unlearnt = sorted(set(test_labels.tolist()) - set(train_labels.tolist()))
    if unlearnt:
        some = ", ".join(names[place] for place in unlearnt[:5]) + (", ..." if len(unlearnt) > 5 else "")
        notes.append(f"{len(unlearnt)} classes have no train pictures, so that theirs are never right: {some}")
    features = train.image_features[learnt], data.image_features[measured]
    pictures = measured.nonzero().squeeze(1)
    return LabelledFeatures(features[0], train_labels, features[1], test_labels, names, pictures), notes


def _classes(data: EmbeddedData) -> list[str]:
    if data.label_names is not None:
        return data.label_names
    return [str(number) for number in range(1 + max(label for label in data.labels if label is not None))]


def _labelled(data: EmbeddedData, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """(n,) bool, which pictures have a label, and the (k,) int64 labels of those, renumbered."""
    kept = torch.tensor([label is not None for label in data.labels])
    return kept, torch.tensor([numbers[label] for label in data.labels if label is not None], dtype=torch.int64)
