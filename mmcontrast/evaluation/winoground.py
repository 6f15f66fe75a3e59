"""Two pictures and two captions of the same words: which belongs to which (Thrush et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, Items, TaskResult
from mmcontrast.evaluation.retrieval import check_features


def winoground_scores(images: Tensor, captions: Tensor) -> Metrics:
    """Scores of (p, 2, d) pictures and (p, 2, d) captions, picture i belonging to caption i; a tie is lost.

    Returns:
        `text_score`: share of the p whose both pictures are closer to their own caption than to the other;
        `image_score`: share whose both captions are closer to their own picture; `group_score`: share with both.
        Guessing gives 1/4, 1/4 and 1/6.
    """
    return {name: right.double().mean().item() for name, right in _answers(images, captions).items()}


def _answers(images: Tensor, captions: Tensor) -> dict[str, Tensor]:
    """{metric: (p,) bool}."""
    if images.shape != captions.shape or images.ndim != 3 or images.shape[1] != 2:
        raise DataError(f"pairs of pictures and captions: {tuple(images.shape)} and {tuple(captions.shape)} features")
    check_features(images.flatten(0, 1), "image")
    check_features(captions.flatten(0, 1), "text")
    left, right = (metrics.exact_units(part.flatten(0, 1)).view(part.shape) for part in (images, captions))
    scores = left @ right.transpose(1, 2)  # (p, picture, caption)
    own = scores.diagonal(dim1=1, dim2=2)
    text = (own > scores.flip(2).diagonal(dim1=1, dim2=2)).all(dim=1)  # picture i with the other caption
    image = (own > scores.flip(1).diagonal(dim1=1, dim2=2)).all(dim=1)  # caption i with the other picture
    return {"text_score": text, "image_score": image, "group_score": text & image}


def winoground(data: EmbeddedData) -> TaskResult:
    """The scores of a data set whose groups are two pictures with a caption each.

    Raises:
        DataError: there are no groups, or none of two; a group has more, or a picture several captions.
    """
    places: dict[str, list[int]] = {}
    for place, group in enumerate(data.groups):
        if group is not None:
            places.setdefault(group, []).append(place)
    if not places:
        raise DataError(f"{data.name}: winoground needs a group column: two pictures with a caption each are a group")
    for group, members in places.items():
        if len(members) > 2:
            raise DataError(f"{data.name}: group {group!r} has {len(members)} pictures; winoground compares two")
    pairs = torch.tensor([members for members in places.values() if len(members) == 2], dtype=torch.int64).view(-1, 2)
    if not len(pairs):
        raise DataError(f"{data.name}: no group has two pictures")
    counts = torch.bincount(data.text_images, minlength=len(data.groups))
    wrong = (counts[pairs.flatten()] != 1).nonzero()
    if len(wrong):
        picture = int(pairs.flatten()[wrong[0]])
        raise DataError(
            f"{data.name}: row {int(data.positions[picture])} has {int(counts[picture])} captions; winoground takes one"
        )
    first = counts.cumsum(0) - counts
    single = len(places) - len(pairs)
    notes = [f"winoground: {single} groups have a single picture and take no part"] if single else []
    answers = _answers(data.image_features[pairs], data.text_features[first[pairs]])
    items = {name: Items(right, pairs[:, 0]) for name, right in answers.items()}
    return TaskResult({name: right.double().mean().item() for name, right in answers.items()}, Details(items), notes)
