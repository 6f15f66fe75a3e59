"""The tasks that learn from labelled train pictures: their classes matched by name with those that are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.probe import few_shot_probe, linear_probe, nearest_neighbours

PROBE_TASKS = ("linear_probe", "knn", "few_shot")


class LabelledFeatures(NamedTuple):
    """Train pictures and those that are measured, with labels of the same classes.

    Attributes:
        train: (n, d).
        train_labels: (n,) int64 in 0..c-1.
        test: (m, d).
        test_labels: (m,) int64 in 0..c-1.
        class_names: c.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    class_names: list[str]


def run_probes(
    tasks: Sequence[str], train: EmbeddedData, data: EmbeddedData, *, seed: int = 0
) -> tuple[dict[str, Metrics], list[str]]:
    """Those of `tasks` that are in PROBE_TASKS, and what the reader should know of their numbers."""
    both, notes = match_classes(train, data)
    arguments = (both.train, both.train_labels, both.test, both.test_labels, len(both.class_names))
    results: dict[str, Metrics] = {}
    for task in tasks:
        if task == "linear_probe":
            results[task] = linear_probe(*arguments, seed=seed)
        elif task == "knn":
            results[task] = nearest_neighbours(*arguments, strict=False)
        elif task == "few_shot":
            results[task] = few_shot_probe(*arguments, seed=seed)
        undefined = [name for name, value in results.get(task, {}).items() if value is None and "@" in name]
        if undefined:
            notes.append(f"{task}: too few train pictures for {', '.join(undefined)}")
    return results, notes


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
    return LabelledFeatures(features[0], train_labels, features[1], test_labels, names), notes


def _classes(data: EmbeddedData) -> list[str]:
    if data.label_names is not None:
        return data.label_names
    return [str(number) for number in range(1 + max(label for label in data.labels if label is not None))]


def _labelled(data: EmbeddedData, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """(n,) bool, which pictures have a label, and the (k,) int64 labels of those, renumbered."""
    kept = torch.tensor([label is not None for label in data.labels])
    return kept, torch.tensor([numbers[label] for label in data.labels if label is not None], dtype=torch.int64)
