"""What features know of classes when a little is learnt on them: linear probe, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.logistic import Classifier, check_train_labels, fit_logistic
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.retrieval import best_matches, check_features

STRENGTHS = tuple(10.0**power for power in range(-2, 5))
"""Inverses of the regularisation that a probe chooses from."""
NEIGHBOURS = (1, 5, 20)
_VALIDATION_SHARE = 0.2
_NEIGHBOUR_TEMPERATURE = 0.07


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Metrics:
    """Logistic regression on L2-normalised features, fitted on the train pictures and measured on the others.

    The strength is the one most accurate on a fifth of the train pictures, the smallest of equals; with it the
    classifier is then fitted on all of them.

    Args:
        train_features: (n, d).
        train_labels: (n,) int64 in 0..c-1.
        features: (m, d), of the pictures that are measured.
        labels: (m,) int64 in 0..c-1.
        num_classes: c.
        strengths: to choose from; see `fit_logistic`.
        seed: of the division of the train pictures.

    Returns:
        `acc1`, `acc5` (None under five classes), `mean_per_class_recall`, `macro_precision`, `macro_recall`,
        `macro_f1`, and the `strength` that was chosen.
    """
    logits, strength = probe_logits(
        train_features, train_labels, features, labels, num_classes, strengths=strengths, seed=seed
    )
    return classification_metrics(logits, labels) | {"strength": strength}


def probe_logits(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """(m, c) logits of the classifier that `linear_probe` measures, and its strength."""
    train, test = checked_units(train_features, train_labels, features, labels, num_classes)
    strength = choose_strength(train, train_labels, num_classes, strengths, seed)
    return fit_logistic(train, train_labels, num_classes, strength).logits(test), strength


def choose_strength(features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float], seed: int) -> float:
    """The strength that is most accurate on a held-out fifth; arguments as `linear_probe`."""
    ordered = sorted(strengths)
    held = held_out(labels, _VALIDATION_SHARE, seed)
    if len(ordered) == 1 or not held.any():
        return ordered[len(ordered) // 2]
    best, best_share = ordered[0], -1.0
    classifier: Classifier | None = None
    for strength in ordered:
        classifier = fit_logistic(features[~held], labels[~held], num_classes, strength, start=classifier)
        share = metrics.hit_share(metrics.class_ranks(classifier.logits(features[held]), labels[held]), 1)
        if share > best_share:
            best, best_share = strength, share
    return best


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """(n,) bool: of each class about `share` of its pictures, but never all of them."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero().squeeze(1)
        number = min(len(own) - 1, max(1, round(share * len(own))))
        held[own[torch.randperm(len(own), generator=generator)[:number]]] = True
    return held


def nearest_neighbours(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ks: Sequence[int] = NEIGHBOURS,
    strict: bool = True,
) -> Metrics:
    """Classify by the k nearest train pictures, each with a vote of exp(cosine / 0.07) (Wu et al. 2018).

    Arguments as `linear_probe`.

    Args:
        ks: how many neighbours vote.
        strict: a k above the number of train pictures is an error; otherwise its accuracy is None.

    Returns:
        `acc1@k` for each k.
    """
    ranks = neighbour_ranks(train_features, train_labels, features, labels, num_classes, ks=ks, strict=strict)
    return {f"acc1@{k}": None if rank is None else metrics.hit_share(rank, 1) for k, rank in ranks.items()}


def neighbour_ranks(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ks: Sequence[int] = NEIGHBOURS,
    strict: bool = True,
) -> dict[int, Tensor | None]:
    """{k: (m,) int64 ranks of the true class by the votes of k neighbours}; as `nearest_neighbours`."""
    train, test = checked_units(train_features, train_labels, features, labels, num_classes)
    for k in ks:
        if k < 1 or (strict and k > len(train)):
            raise DataError(f"acc1@{k}: k must be between 1 and the number of train pictures, {len(train)}")
    usable = [k for k in ks if k <= len(train)]
    positions, cosines = best_matches(test, train, max(usable, default=1))
    found: dict[int, Tensor | None] = dict.fromkeys(ks)
    for k in usable:
        votes = torch.zeros(len(test), num_classes, dtype=torch.float64)
        weights = ((cosines[:, :k] - cosines[:, :1]) / _NEIGHBOUR_TEMPERATURE).exp()
        votes.scatter_add_(1, train_labels[positions[:, :k]], weights)
        found[k] = metrics.class_ranks(votes, labels)
    return found


def classification_metrics(logits: Tensor, labels: Tensor) -> Metrics:
    """(n, c) logits and (n,) labels to the metrics of `linear_probe`."""
    num_classes = logits.shape[1]
    confusion = metrics.confusion_matrix(metrics.predicted_classes(logits, labels), labels, num_classes)
    found = metrics.accuracies(metrics.class_ranks(logits, labels), num_classes)
    found["mean_per_class_recall"] = metrics.mean_per_class_recall(confusion)
    return found | metrics.macro_scores(confusion)


def checked_units(
    train_features: Tensor, train_labels: Tensor, features: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Both features as float64 unit vectors; arguments as `linear_probe`."""
    check_features(train_features, "train image")
    check_features(features, "image")
    if train_features.shape[1] != features.shape[1]:
        raise DataError(
            f"train features have {train_features.shape[1]} dimensions, the others {features.shape[1]}: "
            "take both from one model"
        )
    check_train_labels(train_labels, len(train_features), num_classes)
    metrics.check_labels(labels, len(features), num_classes)
    return normalize(train_features.double(), dim=-1), normalize(features.double(), dim=-1)
