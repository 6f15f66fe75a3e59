"""What the tasks of one evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import EmbeddedImages
from mmcontrast.errors import DataError
from mmcontrast.evaluation.classnames import prompt_classnames
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.zero_shot import class_weights


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
        embed_corrupted: the pictures at a corruption and a severity.
        embed_train: gives the embedded train pictures and notes on them; None without.
        positives, ks, strict, templates, classnames, words, logit_scale, seed: as for `run_tasks`.
    """

    data: EmbeddedData
    source: PairSource
    encode: Callable[[list[str]], Tensor]
    embed_corrupted: Callable[[str, int], EmbeddedImages]
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
