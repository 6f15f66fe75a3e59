"""Whether two numbers are the same metric: equal, or apart only by scores that neither side can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mmcontrast.embedding import embed_texts
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.multi_label import average_precisions
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.evaluation.zero_shot import class_weights
from mmcontrast.models import DualEncoder

SAME = 1e-6
"""Largest difference of two metrics that count as equal."""
NOISE = 2e-6
"""Cosines closer than this are a tie: which is larger hangs on the order of sums in float32, and on the batch."""
Verdict = Literal["equal", "tie", "rewritten", "different"]
At = Callable[[float], dict[str, float]]
"""The metrics, by CLIP_benchmark's names, if the scores of all right answers were so much higher."""


def verdict(ours: float, theirs: float, bounds: tuple[float, float]) -> Verdict:
    """Equal to SAME; else a tie where theirs is within what ties leave open; else different."""
    if abs(ours - theirs) <= SAME:
        return "equal"
    low, high = bounds
    return "tie" if low < high and low - SAME <= theirs <= high + SAME else "different"


def bounds(
    evaluation: Evaluation, task: str, encoder: DualEncoder, ks: Sequence[int]
) -> dict[str, tuple[float, float]]:
    """The least and the most that each metric can be, as ties fall against or for the right answers."""
    at: dict[str, Callable[[], At]] = {
        "retrieval": lambda: _retrieval(evaluation, ks),
        "zero_shot": lambda: _zero_shot(evaluation, encoder),
        "multi_label": lambda: _multi_label(evaluation),
        "caption_selection": lambda: _caption_selection(evaluation),
        "winoground": lambda: _winoground(evaluation),
    }
    metric = at[task]()
    low, high = metric(-NOISE), metric(NOISE)
    return {name: (low[name], high[name]) for name in low}


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    return metrics.exact_units(left) @ metrics.exact_units(right).transpose(-1, -2)


def _retrieval(evaluation: Evaluation, ks: Sequence[int]) -> At:
    data = evaluation.data
    scores = _cosines(data.text_features, data.image_features)
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), data.text_images] = True

    def at(shift: float) -> dict[str, float]:
        moved = scores + shift * positive
        sought = {"image": metrics.first_ranks(moved, positive), "text": metrics.first_ranks(moved.T, positive.T)}
        return {f"{way}_retrieval_recall@{k}": metrics.hit_share(ranks, k) for way, ranks in sought.items() for k in ks}

    return at


def _zero_shot(evaluation: Evaluation, encoder: DualEncoder) -> At:
    found = evaluation.details["zero_shot"].classified
    assert found is not None
    weights = class_weights(partial(embed_texts, encoder), found.class_names, evaluation.templates)
    scores = _cosines(evaluation.data.image_features[found.pictures], weights)
    right = torch.nn.functional.one_hot(found.labels, len(weights))

    def at(shift: float) -> dict[str, float]:
        ranks = metrics.class_ranks(scores + shift * right, found.labels)
        recalls = [(ranks[found.labels == label] == 1).double().mean() for label in sorted(set(found.labels.tolist()))]
        shares = {f"acc{k}": metrics.hit_share(ranks, k) for k in (1, 5)}
        return {**shares, "mean_per_class_recall": torch.stack(recalls).mean().item()}

    return at


def _multi_label(evaluation: Evaluation) -> At:
    found = evaluation.details["multi_label"].label_scores
    assert found is not None
    truth = found.truth

    def at(shift: float) -> dict[str, float]:
        precisions = average_precisions(found.scores + shift * truth, truth)
        return {"mean_average_precision": precisions.nan_to_num(0.0).mean().item()}

    return at


def _caption_selection(evaluation: Evaluation) -> At:
    data = evaluation.data
    captions = data.text_features.view(len(data.image_features), -1, data.text_features.shape[1])
    pairs = zip(data.image_features, captions, strict=True)
    scores = torch.stack([_cosines(image[None], own)[0] for image, own in pairs])  # (n, captions)
    margin = scores[:, 0] - scores[:, 1:].amax(dim=1)
    return lambda shift: {"text_acc": (margin + shift > 0).double().mean().item()}


def _winoground(evaluation: Evaluation) -> At:
    data = evaluation.data
    shape = (-1, 2, data.image_features.shape[1])
    pairs = zip(data.image_features.view(shape), data.text_features.view(shape), strict=True)
    scores = torch.stack([_cosines(images, captions) for images, captions in pairs])  # (p, picture, caption)
    own = scores.diagonal(dim1=1, dim2=2)
    text = own - scores.flip(2).diagonal(dim1=1, dim2=2)
    image = own - scores.flip(1).diagonal(dim1=1, dim2=2)

    def at(shift: float) -> dict[str, float]:
        right = {"text_acc": (text + shift > 0).all(dim=1), "image_acc": (image + shift > 0).all(dim=1)}
        right["acc"] = right["text_acc"] & right["image_acc"]
        return {name: share.double().mean().item() for name, share in right.items()}

    return at
