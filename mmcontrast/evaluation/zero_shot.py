"""Zero-shot classification: a class is the mean of its prompts' text features."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.retrieval import check_features

DEFAULT_TEMPLATES = ("{c}", "a {c}", "a photo of a {c}.", "a picture of the {c}.")
_CHUNK = 4096


@dataclass(frozen=True)
class ZeroShotResult:
    """What a zero-shot classification gave.

    Attributes:
        metrics: `acc1`, `acc5` (None under five classes), `mean_per_class_recall`.
        confusion: (c, c) int64 counts, row = true class, column = predicted class.
        class_names: c, as spelled in the prompts.
        predictions: (n,) int64.
        ranks: (n,) int64 of the true class, from 1.
        labels: (n,) int64.
        weights: (c, d) of the classes.
        notes: what the reader should know, e.g. classes without pictures.
    """

    metrics: Metrics
    confusion: Tensor
    class_names: list[str]
    predictions: Tensor
    ranks: Tensor
    labels: Tensor
    weights: Tensor
    notes: list[str] = field(default_factory=list)


def fill_templates(class_name: str, templates: Sequence[str]) -> list[str]:
    """The prompts of one class; "{c}" (or "{}") in a template stands for its name."""
    check_templates(templates)
    return [template.replace("{c}", class_name).replace("{}", class_name) for template in templates]


def check_templates(templates: Sequence[str]) -> None:
    """Raise DataError when there is no template, or one without a place for the class name."""
    if not templates:
        raise DataError('no prompt templates: give at least one, e.g. "a photo of a {c}."')
    for template in templates:
        if "{c}" not in template and "{}" not in template:
            raise DataError(f'template {template!r} has no place for the class name: write "{{c}}" (or "{{}}") in it')


def class_weights(
    encode: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Classifier of c classes: the mean over templates of the normalised text features, normalised again.

    Args:
        encode: strings to (n, d) features; called once, with all prompts.
        class_names: c names as spelled in prompts.
        templates: t templates with "{c}".

    Returns:
        (c, d) float32, L2-normalised.
    """
    prompts = [prompt for name in class_names for prompt in fill_templates(name, templates)]
    features = normalize(encode(prompts).float(), dim=-1)  # (c * t, d)
    return normalize(features.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)


def zero_shot_logits(image_features: Tensor, weights: Tensor) -> Tensor:
    """(n, d) image features and (c, d) class weights to (n, c) float64 logits, 100 * cosine."""
    return 100 * (metrics.exact_units(image_features) @ metrics.exact_units(weights).T)


def classify(image_features: Tensor, labels: Tensor, weights: Tensor, class_names: Sequence[str]) -> ZeroShotResult:
    """Classify pictures and compare with their labels.

    Args:
        image_features: (n, d).
        labels: (n,) int64 in 0..c-1.
        weights: (c, d) from `class_weights`.
        class_names: c.

    Raises:
        DataError: a label is out of range, or there are no pictures.
    """
    check_features(image_features, "image")
    check_features(weights, "class")
    metrics.check_labels(labels, len(image_features), len(class_names))
    ranks, predictions = torch.empty_like(labels), torch.empty_like(labels)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = zero_shot_logits(image_features[part], weights)  # (chunk, c)
        ranks[part] = metrics.class_ranks(logits, labels[part])
        predictions[part] = metrics.predicted_classes(logits, labels[part])
    confusion = metrics.confusion_matrix(predictions, labels, len(class_names))
    values = metrics.accuracies(ranks, len(class_names))
    values["mean_per_class_recall"] = metrics.mean_per_class_recall(confusion)
    return ZeroShotResult(
        values, confusion, list(class_names), predictions, ranks, labels, weights, _notes(confusion, class_names)
    )


def _notes(confusion: Tensor, class_names: Sequence[str]) -> list[str]:
    notes = []
    absent = [name for name, count in zip(class_names, confusion.sum(dim=1).tolist(), strict=True) if not count]
    if absent:
        notes.append(f"{len(absent)} classes have no pictures and count in no mean: {_some(absent)}")
    if len(class_names) == 1:
        notes.append("there is only one class, so that every picture is right")
    twice = sorted({name for name in class_names if list(class_names).count(name) > 1})
    if twice:
        notes.append(f"several classes have the same name, so that nothing can tell them apart: {_some(twice)}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def load_templates(path: str | Path) -> list[str]:
    """Prompt templates from a .txt (one a line), .json or .yaml file (a list of strings)."""
    templates = _load_list(Path(path), "templates")
    check_templates(templates)
    return templates


def load_classnames(path: str | Path) -> list[str]:
    """Class names in the order of their labels, from a .txt (one a line), .json or .yaml file (a list)."""
    return _load_list(Path(path), "class names")


def _load_list(path: Path, what: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        values: Any = _parse(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot read {what}: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot read {what}: {' '.join(str(error).split())}") from None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise DataError(f"{path}: {what} must be a list of strings")
    if not values:
        raise DataError(f"{path}: no {what} in it")
    return values


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix in (".yaml", ".yml"):
        return yaml.safe_load(text)
    return [line.strip() for line in text.splitlines() if line.strip()]
