"""How features lie on the sphere: alignment, uniformity, gap between modalities, effective rank, hubs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError
from mmcontrast.evaluation.metrics import Metrics
from mmcontrast.evaluation.outcomes import Details, Items, TaskResult
from mmcontrast.evaluation.retrieval import best_matches, check_features

MAX_ROWS = 20_000
"""Rows of a modality that uniformity, rank and hubs are computed of; more are drawn from at random."""
HUB_K = 10
_CHUNK = 1024


def geometry(
    image_features: Tensor, text_features: Tensor, text_images: Tensor, *, max_rows: int = MAX_ROWS, seed: int = 0
) -> Metrics:
    """Geometry of n pictures and their m captions, all on L2-normalised features.

    Args:
        image_features: (n, d).
        text_features: (m, d).
        text_images: (m,) int64, the picture (0..n-1) of each caption.
        max_rows: pictures, and captions, that what compares all with all is computed of.
        seed: of their choice.

    Returns:
        `alignment`: mean squared distance of a caption to its picture (Wang & Isola 2020), lower is better.
        `image_uniformity`, `text_uniformity`: see `uniformity`.
        `modality_gap`: distance between the mean picture and the mean caption (Liang et al. 2022).
        `image_effective_rank`, `text_effective_rank`: see `effective_rank`.
        `image_hubness`, `text_hubness`: skewness of how often a picture is among the 10 best of a caption, and a
        caption among those of a picture; None in a gallery of 10 or fewer.
    """
    return geometry_task(image_features, text_features, text_images, max_rows=max_rows, seed=seed).metrics


def geometry_task(
    image_features: Tensor, text_features: Tensor, text_images: Tensor, *, max_rows: int = MAX_ROWS, seed: int = 0
) -> TaskResult:
    """As `geometry`, with the distance of each caption to its picture."""
    check_features(image_features, "image")
    check_features(text_features, "text")
    if len(text_images) != len(text_features):
        raise DataError(f"{len(text_images)} owners for {len(text_features)} captions")
    images, texts = normalize(image_features.double(), dim=-1), normalize(text_features.double(), dim=-1)
    spans = _spans(len(texts))
    squared = torch.cat([(images[text_images[part]] - texts[part]).square().sum(dim=1) for part in spans])
    gap = images.mean(dim=0) - texts.mean(dim=0)
    some_images, some_texts = (some_rows(features, max_rows, seed) for features in (images, texts))
    found: Metrics = {
        "alignment": squared.mean().item(),
        "image_uniformity": uniformity(some_images),
        "text_uniformity": uniformity(some_texts),
        "modality_gap": gap.norm().item(),
        "image_effective_rank": effective_rank(some_images),
        "text_effective_rank": effective_rank(some_texts),
        "image_hubness": hubness(some_texts, some_images),
        "text_hubness": hubness(some_images, some_texts),
    }
    return TaskResult(found, Details({"alignment": Items(squared, text_images)}))


def uniformity(units: Tensor, t: float = 2.0) -> float | None:
    """log of the mean of exp(-t * squared distance) over all pairs of (n, d) unit vectors (Wang & Isola 2020).

    0 where all are one point, lower is more uniform; None for a single row.
    """
    count = len(units)
    if count < 2:
        return None
    total = 0.0
    for part in _spans(count):
        squared = (2 - 2 * units[part] @ units.T).clamp(min=0)  # (chunk, n)
        own = torch.arange(part.start, part.stop)
        squared[own - part.start, own] = torch.inf  # a row is no pair with itself
        total += (-t * squared).exp().sum().item()
    return math.log(total / (count * (count - 1)))


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values of (n, d), scaled to add up to 1 (Roy & Vetterli 2007): 1 to d."""
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum()
    return math.exp(torch.special.entr(shares).sum().item())


def hubness(queries: Tensor, gallery: Tensor, k: int = HUB_K) -> float | None:
    """Skewness of how many of (q, d) queries have each row of (m, d) among their k best (Radovanovic et al. 2010).

    0 without hubs; None where k is no smaller than the gallery, and where no row differs from another.
    """
    if k >= len(gallery):
        return None
    positions, _ = best_matches(queries, gallery, k)
    counts = torch.bincount(positions.flatten(), minlength=len(gallery)).double()
    from_mean = counts - counts.mean()
    variance = from_mean.square().mean().item()
    return from_mean.pow(3).mean().item() / math.pow(variance, 1.5) if variance > 0 else None


def some_rows(features: Tensor, most: int, seed: int) -> Tensor:
    """At most `most` rows, drawn at random; all of them in their order where they fit."""
    if len(features) <= most:
        return features
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:most]]


def _spans(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK))
