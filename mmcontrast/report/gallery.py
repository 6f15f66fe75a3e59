"""Examples of retrieval both ways, from features."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.report.inputs import RetrievalExample, RetrievedItem

TOP = 5
THUMBNAIL_SIDE = 160


class GalleryPair(NamedTuple):
    """Examples of both directions."""

    image_queries: list[RetrievalExample]
    text_queries: list[RetrievalExample]


def encode_thumbnail(image: Image.Image, side: int = THUMBNAIL_SIDE) -> bytes:
    """JPEG of a picture scaled down to at most `side` pixels; small pictures keep their size."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def _ranked(scores: Tensor, positive: Tensor, top: int) -> tuple[list[int], int]:
    """Positions of the `top` best of (m,) scores, and the rank of the best positive among all of them.

    A tie is decided against the positive, as in the metrics, so that picture and numbers tell the same story.
    """
    best_positive = scores[positive].max()
    rank = 1 + int(((scores >= best_positive) & ~positive).sum())
    # Rivals first, then a stable sort: among equal scores the positive comes last.
    rivals_first = torch.argsort(positive.to(torch.uint8), stable=True)
    order = rivals_first[torch.argsort(scores[rivals_first], descending=True, stable=True)]
    return order[:top].tolist(), rank


def search_example(
    scores: Tensor,
    positive: Tensor,
    item: Callable[[int, float, bool], RetrievedItem],
    *,
    captions: Sequence[str] = (),
    thumbnail: bytes | None = None,
    top: int = TOP,
) -> RetrievalExample:
    """One query as it is shown.

    Args:
        scores: (m,) cosines; -inf is no part of the gallery.
        positive: (m,) bool, what belongs to the query: at least one.
        item: position, score and whether it belongs to the query -> what is shown; called only for what is shown.
        captions, thumbnail: of the query.
        top: best matches shown.
    """
    gallery = int(scores.isfinite().sum())
    order, rank = _ranked(scores, positive, min(top, gallery))
    best = int(scores.masked_fill(~positive, -torch.inf).argmax())
    items = [item(j, float(scores[j]), bool(positive[j])) for j in order]
    return RetrievalExample(items, rank, gallery, captions, thumbnail, item(best, float(scores[best]), True))


def _sample(candidates: Tensor, count: int, seed: int) -> list[int]:
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    chosen: list[int] = candidates[order[:count]].sort().values.tolist()
    return chosen


def retrieval_examples(
    image_features: Tensor,
    text_features: Tensor,
    image_ids_of_texts: Tensor | Sequence[int],
    thumbnails: Callable[[int], Image.Image],
    captions: Sequence[str],
    *,
    count: int = 8,
    seed: int = 0,
    top: int = TOP,
    image_positives: Callable[[int], Tensor] | None = None,
    text_positives: Callable[[int], Tensor] | None = None,
) -> GalleryPair:
    """Random queries of both directions with their best matches; neither good nor bad ones are picked.

    Args:
        image_features: (n, d) L2-normalised.
        text_features: (m, d) L2-normalised.
        image_ids_of_texts: (m,) position of each text's image in `image_features`.
        thumbnails: position -> picture, called only for the pictures that are shown.
        captions: the m texts.
        count: queries of each direction.
        seed: of the choice of queries.
        top: matches shown of each query.
        image_positives: image -> (m,) bool, the texts that count as hits; its own by default.
        text_positives: text -> (n,) bool, the images that count as hits; its own by default.

    Raises:
        DataError: the lengths contradict each other.
    """
    image_features, text_features = image_features.detach().float().cpu(), text_features.detach().float().cpu()
    owners = torch.as_tensor(image_ids_of_texts, dtype=torch.int64).cpu()
    if not len(captions) == len(text_features) == len(owners):
        raise DataError(f"{len(captions)} captions, {len(text_features)} text features, {len(owners)} image ids")
    if len(owners) and not 0 <= int(owners.min()) <= int(owners.max()) < len(image_features):
        raise DataError(f"image ids of texts must lie in 0..{len(image_features) - 1}")
    picture = lru_cache(maxsize=None)(lambda i: encode_thumbnail(thumbnails(i)))

    def image_query(i: int) -> RetrievalExample:
        return search_example(
            text_features @ image_features[i],
            owners == i if image_positives is None else image_positives(i),
            lambda j, score, hit: RetrievedItem(score, hit, captions[j]),
            captions=[captions[j] for j in (owners == i).nonzero().flatten().tolist()],
            thumbnail=picture(i),
            top=top,
        )

    def text_query(j: int) -> RetrievalExample:
        owner = int(owners[j])
        return search_example(
            image_features @ text_features[j],
            torch.arange(len(image_features)) == owner if text_positives is None else text_positives(j),
            lambda i, score, hit: RetrievedItem(score, hit, thumbnail=picture(i)),
            captions=[captions[j]],
            thumbnail=picture(owner),
            top=top,
        )

    return GalleryPair(
        image_queries=[image_query(i) for i in _sample(torch.unique(owners), count, seed)],
        text_queries=[text_query(j) for j in _sample(torch.arange(len(captions)), count, seed + 1)],
    )
