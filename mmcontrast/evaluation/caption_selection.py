"""Which caption of a picture is the right one: a model is asked to score it above wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.hard_captions import KINDS, HardCaption, hard_captions
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, Items, TaskResult
from mmcontrast.evaluation.retrieval import check_features


def chosen_right(images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """(p,) bool: whether each of (p, d) pictures is closer to its right (p, d) caption than to the wrong one.

    A tie is lost.
    """
    sides = ((images, "image"), (right, "right caption"), (wrong, "wrong caption"))
    for features, kind in sides:
        check_features(features, kind)
    if not images.shape == right.shape == wrong.shape:
        shapes = ", ".join(f"{tuple(features.shape)} of {kind}s" for features, kind in sides)
        raise DataError(f"features do not fit: {shapes}")
    units, good, bad = (metrics.exact_units(features) for features, _ in sides)
    return (units * good).sum(dim=1) > (units * bad).sum(dim=1)


class HardChoices(NamedTuple):
    """p wrong captions, each against the right one that it was made from.

    Attributes:
        made: p.
        right: (p,) bool, as `chosen_right`.
        scores: (p, 2) float64 cosines of the picture with the right caption and with the wrong one.
    """

    made: list[HardCaption]
    right: Tensor
    scores: Tensor


def hard_choices(data: EmbeddedData, encode: Callable[[list[str]], Tensor], *, seed: int = 0) -> HardChoices:
    """What a model makes of the wrong captions that `hard_captions` makes; as `select_hard_captions`."""
    made = hard_captions(data.captions, data.text_images.tolist(), seed=seed)
    if not made:
        raise DataError(
            f"{data.name}: no hard caption can be made of its {len(data.captions)} captions: the rules look for "
            'English ("a red bus on the street"); caption_selection takes wrong captions of your own'
        )
    texts = sorted({hard.text for hard in made})
    place = {text: number for number, text in enumerate(texts)}
    wrong = encode(texts)[[place[hard.text] for hard in made]]
    source = torch.tensor([hard.place for hard in made])
    images, own = data.image_features[data.text_images[source]], data.text_features[source]
    right = chosen_right(images, own, wrong)
    picture, *captions = (metrics.exact_units(features) for features in (images, own, wrong))
    return HardChoices(made, right, torch.stack([(picture * caption).sum(dim=1) for caption in captions], dim=1))


def select_hard_captions(data: EmbeddedData, encode: Callable[[list[str]], Tensor], *, seed: int = 0) -> TaskResult:
    """Each caption against the wrong ones that `hard_captions` makes of it.

    Returns:
        `text_acc`, the share of the wrong captions that score below their right one, and `text_acc_KIND` of each
        kind, None where there are none of it.

    Raises:
        DataError: no wrong caption can be made.
    """
    made, right, _ = hard_choices(data, encode, seed=seed)
    pictures = data.text_images[torch.tensor([hard.place for hard in made])]
    found: Metrics = {"text_acc": right.double().mean().item()}
    items = {"text_acc": Items(right, pictures)}
    counts = []
    for kind in KINDS:
        own = torch.tensor([hard.kind == kind for hard in made])
        found[f"text_acc_{kind}"] = right[own].double().mean().item() if own.any() else None
        if own.any():
            items[f"text_acc_{kind}"] = Items(right[own], pictures[own])
        counts.append(f"{int(own.sum())} of {kind}")
    return TaskResult(found, Details(items), [f"hard_captions: {len(made)} wrong captions: {', '.join(counts)}"])


def select_first_captions(data: EmbeddedData, width: int | None = None) -> TaskResult:
    """The first caption of each picture against those that follow, which are wrong.

    Args:
        data: pictures with captions.
        width: captions of one question, two at least; a picture may have several questions, one after another, as where
            it stands in several rows. None takes all captions of the picture as one question.

    Returns:
        `text_acc`: share of the wrong captions that score below the right one (CLIP_benchmark's where a question has
        two captions); `question_acc`: share of the questions whose right caption scores above all wrong ones.

    Raises:
        DataError: a question has fewer than two captions, or another number than the first one, as when one is empty:
            then it is not sure which is the right one.
    """
    counts = torch.bincount(data.text_images, minlength=len(data.positions)).tolist()
    several, width = width is not None, width or max(2, counts[0])
    for picture, count in enumerate(counts):
        if count % width if several else count != width:
            raise DataError(
                f"{data.name}: row {int(data.positions[picture])} has {count} captions, {width} are needed: "
                "the right one first, then the wrong ones; is one empty?"
            )
    features = data.text_features.view(-1, width, data.text_features.shape[1])
    owners = data.text_images.view(-1, width)[:, 1:]
    first = features[:, :1].expand(-1, width - 1, -1)
    right = chosen_right(data.image_features[owners.flatten()], first.flatten(0, 1), features[:, 1:].flatten(0, 1))
    by_question = right.view(-1, width - 1).all(dim=1)
    items = {"text_acc": Items(right, owners.flatten()), "question_acc": Items(by_question, owners[:, 0])}
    found: Metrics = {name: item.values.double().mean().item() for name, item in items.items()}
    return TaskResult(found, Details(items))
