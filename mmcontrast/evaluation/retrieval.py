"""Retrieval both ways over whole galleries, in memory that grows with their features and not with their product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.positives import PositiveKeys
from mmcontrast.evaluation.ranking import Ranking, rank_both_ways

RECALL_KS = (1, 5, 10)
# A tile of chunk x gallery scores and the few copies that ranking makes of it: 128 MiB each at most.
_TILE_ELEMENTS = 1 << 24
# Above so many positives of one query, or so many a row of all, they are looked up tile by tile and not listed.
_LISTED_WIDTH = 32
_LISTED_PER_ROW = 16
_CHUNK = 256
_TILE = 1024  # such a tile of float32 stays in a processor's cache
_TILE_ON_GPU = 8192


def retrieval_metrics(
    image_features: Tensor,
    text_features: Tensor,
    keys: PositiveKeys,
    *,
    ks: Sequence[int] = RECALL_KS,
    chunk: int | None = None,
    strict: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Metrics:
    """Recall, ranks and mAP@R, image to text and text to image.

    Recall@k is the share of queries with at least one of their positives among the k best; with keys by picture id
    that is how CLIP_benchmark counts. See `metrics` for the rule on ties.

    Args:
        image_features: (n, d), normalised here.
        text_features: (m, d), normalised here.
        keys: who is a positive of whom; every query needs at least one positive.
        ks: of the recalls.
        chunk: pictures, and captions, that are scored at a time; the results do not depend on it. None takes what
            suits the device.
        strict: a k above the size of a gallery is an error; otherwise that recall is None.
        progress: called now and then with the number of further pictures that are ranked.

    Returns:
        `image_to_text_recall@k`, `image_to_text_mean_rank`, `image_to_text_median_rank`, `image_to_text_map@r`,
        `image_to_text_r_precision`, the same for `text_to_image`, `map@r` and `r_precision` (means of both), and
        `mean_recall` (mean of all recalls there are).
    """
    if strict:
        check_features(image_features, "image")
        check_features(text_features, "text")
        check_ks(ks, len(image_features), "pictures")
        check_ks(ks, len(text_features), "captions")
    return summarise(*rank_pairs(image_features, text_features, keys, chunk=chunk, progress=progress), ks)


def rank_pairs(
    image_features: Tensor,
    text_features: Tensor,
    keys: PositiveKeys,
    *,
    chunk: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[Ranking, Ranking]:
    """What became of the n pictures and of the m texts as queries; arguments as `retrieval_metrics`."""
    check_features(image_features, "image")
    check_features(text_features, "text")
    _check_sizes(image_features, text_features, keys)
    if chunk is not None and chunk < 1:
        raise DataError(f"chunk is {chunk}, it must be at least 1")
    return _rankings(image_features, text_features, keys, chunk, progress)


def summarise(by_image: Ranking, by_text: Ranking, ks: Sequence[int] = RECALL_KS) -> Metrics:
    """The metrics of `retrieval_metrics` from the rankings of both ways; None for a k above the size of a gallery."""
    to_text = _summary(by_image, ks, len(by_text.ranks))
    to_image = _summary(by_text, ks, len(by_image.ranks))
    result: Metrics = {f"image_to_text_{name}": value for name, value in to_text.items()}
    result |= {f"text_to_image_{name}": value for name, value in to_image.items()}
    recalls = [value for name, value in result.items() if "_recall@" in name and value is not None]
    for name, (left, right) in {
        "map@r": (by_image.precision, by_text.precision),
        "r_precision": (by_image.r_precision, by_text.r_precision),
    }.items():
        result[name] = (left.mean().item() + right.mean().item()) / 2
    result["mean_recall"] = sum(recalls) / len(recalls) if recalls else None
    return result


def _rankings(
    images: Tensor,
    texts: Tensor,
    keys: PositiveKeys,
    chunk: int | None,
    progress: Callable[[int], object] | None,
) -> tuple[Ranking, Ranking]:
    pairs = keys.pairs(_LISTED_PER_ROW * (len(images) + len(texts)))
    if pairs is not None:
        sizes = [of.bincount(minlength=len(rows)) for of, rows in zip(pairs, (images, texts), strict=True)]
        for size, kind in zip(sizes, ("image", "text"), strict=True):
            _check_answerable(size[:, None] > 0, kind, 0)
        if max(int(size.max()) for size in sizes) <= _LISTED_WIDTH:
            tile = chunk or (_TILE if images.device.type == "cpu" else _TILE_ON_GPU)
            return rank_both_ways(images, texts, pairs, tile=tile, progress=progress)
    units, text_units = metrics.exact_units(images), metrics.exact_units(texts)
    by_image = _one_way(units, text_units, keys.image_queries, chunk or _CHUNK, "image", progress)
    return by_image, _one_way(text_units, units, keys.text_queries, chunk or _CHUNK, "text", None)


def _one_way(
    queries: Tensor,
    gallery: Tensor,
    positives: Callable[[int, int], Tensor],
    chunk: int,
    kind: str,
    progress: Callable[[int], object] | None,
) -> Ranking:
    """The ranks of queries with any number of positives, by whole rows of exact scores."""
    ranks = torch.empty(len(queries), dtype=torch.int64)
    precision, r_precision = torch.empty(2, len(queries), dtype=torch.float64)
    for start, stop in _spans(len(queries), len(gallery), chunk):
        positive = positives(start, stop)
        _check_answerable(positive, kind, start)
        scores = queries[start:stop] @ gallery.T  # (chunk, m)
        ranks[start:stop] = metrics.first_ranks(scores, positive)
        precision[start:stop], r_precision[start:stop] = metrics.precisions_at_r(scores, positive)
        if progress:
            progress(stop - start)
    return Ranking(ranks, precision, r_precision)


def _summary(ranking: Ranking, ks: Sequence[int], gallery: int) -> Metrics:
    recalls: Metrics = {f"recall@{k}": metrics.hit_share(ranking.ranks, k) if k <= gallery else None for k in ks}
    return recalls | {
        "mean_rank": metrics.mean_rank(ranking.ranks),
        "median_rank": metrics.median_rank(ranking.ranks),
        "map@r": ranking.precision.mean().item(),
        "r_precision": ranking.r_precision.mean().item(),
    }


def best_matches(queries: Tensor, gallery: Tensor, k: int, *, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """The k best of the gallery for each query, to show them; equal scores in the gallery's order.

    Args:
        queries: (q, d).
        gallery: (m, d).
        k: how many; at most m are returned.
        chunk: queries that are scored at a time.

    Returns:
        (q, k) int64 positions in the gallery, (q, k) float64 cosines, best first.
    """
    k = min(k, len(gallery))
    units, gallery_units = metrics.exact_units(queries), metrics.exact_units(gallery)
    positions = torch.empty(len(queries), k, dtype=torch.int64)
    cosines = torch.empty(len(queries), k, dtype=torch.float64)
    for start, stop in _spans(len(queries), len(gallery), chunk):
        ordered = (units[start:stop] @ gallery_units.T).sort(dim=1, descending=True, stable=True)
        positions[start:stop] = ordered.indices[:, :k]
        cosines[start:stop] = ordered.values[:, :k]
    return positions, cosines


def _spans(num_queries: int, gallery_size: int, chunk: int) -> list[tuple[int, int]]:
    if chunk < 1:
        raise DataError(f"chunk is {chunk}, it must be at least 1")
    step = max(1, min(chunk, _TILE_ELEMENTS // gallery_size))
    return [(start, min(start + step, num_queries)) for start in range(0, num_queries, step)]


def check_features(features: Tensor, kind: str) -> None:
    """Raise unless `features` are a non-empty (n, d) of finite numbers; `kind` names them in the message."""
    if features.ndim != 2 or not len(features):
        raise DataError(f"no {kind} features to evaluate: their shape is {tuple(features.shape)}")
    broken = (~features.isfinite().all(dim=1)).nonzero()
    if len(broken):
        raise ModelError(
            f"{kind} features are not finite in {len(broken)} of {len(features)} rows, first in row "
            f"{int(broken[0])}: the model has diverged; lower the learning rate or use fp32"
        )


def check_ks(ks: Sequence[int], gallery_size: int, what: str) -> None:
    """Raise DataError when a k is below 1 or above the size of the gallery."""
    for k in ks:
        if not 1 <= k <= gallery_size:
            raise DataError(f"recall@{k}: k must be between 1 and the gallery's size, {gallery_size} {what}")


def _check_sizes(image_features: Tensor, text_features: Tensor, keys: PositiveKeys) -> None:
    found = (len(image_features), len(text_features))
    expected = (len(keys.image), len(keys.text))
    if found != expected:
        raise DataError(
            f"{found[0]} image and {found[1]} text features do not fit the keys of {expected[0]} pictures "
            f"and {expected[1]} texts"
        )
    if image_features.shape[1] != text_features.shape[1]:
        raise DataError(
            f"image features have {image_features.shape[1]} dimensions, text features {text_features.shape[1]}"
        )


def _check_answerable(positive: Tensor, kind: str, start: int) -> None:
    without = (~positive.any(dim=1)).nonzero()
    if len(without):
        raise DataError(
            f"{kind} {start + int(without[0])} has no positive in the gallery: every query needs at least one"
        )
