"""Retrieval both ways over whole galleries, in memory that grows with the gallery but not with the queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmcontrast.errors import DataError, ModelError
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.positives import PositiveKeys

RECALL_KS = (1, 5, 10)
# A tile of chunk x gallery scores and the few copies that ranking makes of it: 128 MiB each at most.
_TILE_ELEMENTS = 1 << 24


def retrieval_metrics(
    image_features: Tensor,
    text_features: Tensor,
    keys: PositiveKeys,
    *,
    ks: Sequence[int] = RECALL_KS,
    chunk: int = 256,
    strict: bool = True,
) -> Metrics:
    """Recall, ranks and mAP@R, image to text and text to image.

    Recall@k is the share of queries with at least one of their positives among the k best; with keys by picture id
    that is how CLIP_benchmark counts. See `metrics` for the rule on ties.

    Args:
        image_features: (n, d), normalised here.
        text_features: (m, d), normalised here.
        keys: who is a positive of whom; every query needs at least one positive.
        ks: of the recalls.
        chunk: queries that are scored at a time; the results do not depend on it.
        strict: a k above the size of a gallery is an error; otherwise that recall is None.

    Returns:
        `image_to_text_recall@k`, `image_to_text_mean_rank`, `image_to_text_median_rank`, `image_to_text_map@r`,
        the same for `text_to_image`, `map@r` (mean of both) and `mean_recall` (mean of all recalls there are).
    """
    check_features(image_features, "image")
    check_features(text_features, "text")
    _check_sizes(image_features, text_features, keys)
    if strict:
        check_ks(ks, len(image_features), "pictures")
        check_ks(ks, len(text_features), "captions")
    images, texts = metrics.exact_units(image_features), metrics.exact_units(text_features)
    to_text = _one_way(images, texts, keys.image_queries, ks, chunk, "image")
    to_image = _one_way(texts, images, keys.text_queries, ks, chunk, "text")
    result: Metrics = {f"image_to_text_{name}": value for name, value in to_text.items()}
    result |= {f"text_to_image_{name}": value for name, value in to_image.items()}
    recalls = [value for name, value in result.items() if "_recall@" in name and value is not None]
    both_maps = [value for name, value in result.items() if name.endswith("_map@r") and value is not None]
    result["map@r"] = sum(both_maps) / len(both_maps)
    result["mean_recall"] = sum(recalls) / len(recalls) if recalls else None
    return result


def _one_way(
    queries: Tensor,
    gallery: Tensor,
    positives: Callable[[int, int], Tensor],
    ks: Sequence[int],
    chunk: int,
    kind: str,
) -> Metrics:
    ranks = torch.empty(len(queries), dtype=torch.int64)
    precision = torch.empty(len(queries), dtype=torch.float64)
    for start, stop in _spans(len(queries), len(gallery), chunk):
        positive = positives(start, stop)
        _check_answerable(positive, kind, start)
        scores = queries[start:stop] @ gallery.T  # (chunk, m)
        ranks[start:stop] = metrics.first_ranks(scores, positive)
        precision[start:stop] = metrics.average_precision_at_r(scores, positive)
    recalls: Metrics = {f"recall@{k}": metrics.hit_share(ranks, k) if k <= len(gallery) else None for k in ks}
    return recalls | {
        "mean_rank": metrics.mean_rank(ranks),
        "median_rank": metrics.median_rank(ranks),
        "map@r": precision.mean().item(),
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
