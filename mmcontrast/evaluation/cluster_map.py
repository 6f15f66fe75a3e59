"""What a model thinks belongs together: clusters of pairs, how pure they are, and a map of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmcontrast.negatives.kmeans import spherical_kmeans

ITEMS_PER_CLUSTER = 64


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes:
        members: positions among the n pairs, nearest to the centroid first.
        within: mean cosine of the members to the centroid.
        label: the most frequent label of its members, or None.
        purity: share of the labelled members that have it, or None.
        labelled: how many members have a label.
    """

    members: list[int]
    within: float
    label: int | None = None
    purity: float | None = None
    labelled: int = 0


@dataclass(frozen=True)
class ClusterMap:
    """Clusters of n pairs.

    Attributes:
        ids: (n,) int64, place of each pair's cluster in `clusters`.
        clusters: the largest first; none is empty.
        points: (n, 2) float32, the two directions in which the pairs differ most.
        explained: share of the variance that the two directions hold.
    """

    ids: Tensor
    clusters: list[Cluster]
    points: Tensor
    explained: float

    @property
    def purity(self) -> float | None:
        """Share of all labelled pairs that have the most frequent label of their cluster."""
        judged = [(c.purity, c.labelled) for c in self.clusters if c.purity is not None]
        total = sum(count for _, count in judged)
        return sum(purity * count for purity, count in judged) / total if total else None


def joint_features(image: Tensor, text: Tensor) -> Tensor:
    """(n, d) pictures and (n, d) captions to (n, d) unit vectors of the pairs.

    Each modality is centred first: the gap between them would otherwise be the largest difference of all.
    """
    return functional.normalize((image - image.mean(dim=0)) + (text - text.mean(dim=0)), dim=-1)


def map_clusters(joint: Tensor, labels: Sequence[int | None], *, seed: int, clusters: int | None = None) -> ClusterMap:
    """Cluster and project (n, d) joint features.

    Args:
        joint: unit vectors.
        labels: n classes, None where unknown; for the purity only.
        seed: of the first centroids.
        clusters: how many; n / 64 by default.
    """
    number = clusters or max(2, min(256, len(joint) // ITEMS_PER_CLUSTER))
    found = spherical_kmeans(joint, min(number, len(joint)), seed=seed)
    closeness = (joint * found.centroids[found.ids.long()]).sum(dim=1)
    kept = [_cluster(found.ids, closeness, labels, number) for number in range(len(found.centroids))]
    kept = sorted((cluster for cluster in kept if cluster.members), key=lambda c: (-len(c.members), c.members[0]))
    ids = torch.empty(len(joint), dtype=torch.int64)
    for number, cluster in enumerate(kept):
        ids[cluster.members] = number
    points, explained = project(joint)
    return ClusterMap(ids, kept, points, explained)


def _cluster(ids: Tensor, closeness: Tensor, labels: Sequence[int | None], number: int) -> Cluster:
    members = (ids == number).nonzero().flatten()
    members = members[closeness[members].argsort(descending=True, stable=True)]
    places: list[int] = members.tolist()
    known = Counter(label for place in places if (label := labels[place]) is not None)
    within = closeness[members].mean().item() if places else 0.0
    if not known:
        return Cluster(places, within)
    label, count = min(known.items(), key=lambda item: (-item[1], item[0]))
    return Cluster(places, within, label, count / known.total(), known.total())


def project(features: Tensor) -> tuple[Tensor, float]:
    """(n, d) to (n, 2) by principal components, each with its larger entries positive, and their share of variance."""
    centred = (features - features.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = vectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    points = functional.pad(centred @ axes, (0, 2 - axes.shape[1]))
    explained = values[-2:].sum() / values.clamp(min=0).sum().clamp(min=1e-12)
    return points.float(), min(1.0, explained.item())
