"""What rules need to know of each anchor's candidates as a whole, before any rectangle of pairs is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from mmcontrast.negatives import rules
from mmcontrast.negatives.batch import GlobalBatch
from mmcontrast.negatives.clustering import Clusters

BLOCK = 1024
"""Anchors at a time."""
View = Literal["image", "text"]


def blocks(count: int) -> Iterator[slice]:
    """`count` anchors in runs of `BLOCK`."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def closest_thresholds(batch: GlobalBatch, count: int) -> dict[View, Tensor]:
    """(n,) of both views: cosine across the modalities plus that of captions, of each anchor's `count`-th closest."""
    image, text = batch.image, batch.text
    found: dict[View, list[Tensor]] = {"image": [], "text": []}
    for rows in blocks(len(batch)):
        same, own = text[rows] @ text.T, batch.own(rows)
        found["image"].append(rules.closest_threshold(image[rows] @ text.T + same, count, own))
        found["text"].append(rules.closest_threshold(text[rows] @ image.T + same, count, own))
    return {view: torch.cat(parts) for view, parts in found.items()}


def strata(batch: GlobalBatch, clusters: Clusters, strength: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(n,) cluster of each pair, and the log-weights of its candidates from its own cluster and of all others."""
    ids = clusters.ids_of(batch.keys.index).long()
    place = ids.clamp(min=0)
    sizes = clusters.sizes.to(ids.device)
    share = (sizes[place] - 1).clamp(min=0) / max(int(clusters.sizes.sum()) - 1, 1)
    near = torch.bincount(place, weights=(ids >= 0).float(), minlength=len(sizes))[place] - 1
    weights = rules.stratum_log_weights(near, len(ids) - 1 - near, share.float(), strength)
    return ids, (weights[0].masked_fill(ids < 0, 0.0), weights[1].masked_fill(ids < 0, 0.0))
