"""Clusters of the training pairs, from features that training computes anyway: observe, refresh, read the ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast import distributed

from .feature_store import FeatureStore
from .kmeans import assign, spherical_kmeans

POINTS_PER_CLUSTER = 16  # kept items per cluster at least, where not all are kept
PIECE = 1 << 15  # rows of features at once
PENDING = 1 << 16  # ids of items that are not kept wait on the device until there are so many


class Clusters:
    """Which cluster each item of a data set belongs to, by the direction of its image and caption together.

    The last features of all items, or of `capacity` random ones where there are more, are kept on the device
    (`FeatureStore`: 512 MB at 262,144 items of 512) and clustered by `refresh`. Other items get the id of the nearest
    centroid when they are seen. Every rank has to make the same calls with the same features; all read the ids that
    rank 0 found.

    Args:
        num_items: item i is any index equal to i modulo this, so an endless stream can be hashed into it.
        embed_dim: of the features.
        items_per_cluster: items divided by clusters.
        max_clusters: whatever items_per_cluster says.
        capacity: items whose features are kept, at most.
        seed: of the items that are kept and of k-means.
        device: where features, centroids and their arithmetic live.

    Attributes:
        ids: (num_items,) int32 on the CPU, -1 while unknown.
        centroids: (k, d) float32 unit rows on the device; None before the first refresh.
        sizes: (k,) int64 on the CPU, known items per cluster at the last refresh; empty before it.
    """

    def __init__(
        self,
        num_items: int,
        embed_dim: int,
        *,
        items_per_cluster: int = 64,
        max_clusters: int = 16384,
        capacity: int = 262_144,
        seed: int,
        device: torch.device | str,
    ) -> None:
        if min(num_items, embed_dim, items_per_cluster, max_clusters, capacity) < 1:
            raise ValueError("clusters need at least one item, dimension, item per cluster, cluster and slot")
        self.num_items, self.seed, self.device = num_items, seed, torch.device(device)
        slots = min(num_items, capacity)
        enough = slots if slots == num_items else slots // POINTS_PER_CLUSTER
        self.num_clusters = max(1, min(max_clusters, num_items // items_per_cluster, enough))
        self.ids = torch.full((num_items,), -1, dtype=torch.int32)
        self.centroids: Tensor | None = None
        self.sizes = torch.zeros(0, dtype=torch.long)
        self._store = FeatureStore(num_items, embed_dim, slots, seed=seed, device=self.device)
        self._means = torch.zeros(2, embed_dim, device=self.device)  # image, text
        self._pending = self._nothing()

    @torch.no_grad()
    def observe(self, index: Tensor, image: Tensor, text: Tensor) -> None:
        """Remember the features of a global batch.

        Args:
            index: (n,) item of each pair.
            image, text: (n, d) features; rows that are not finite are passed over.
        """
        index = index.to(self.device) % self.num_items
        image, text = image.detach().float(), text.detach().float()
        finite = torch.isfinite(image.sum(1) + text.sum(1))
        self._store.put(index, image, text, finite)
        if not self._store.complete and self.centroids is not None:
            without = finite & (self._store.slot(index) == self._store.slots)
            ids, _ = assign(self.joint(image, text).nan_to_num(), self.centroids)
            self._pending.append((torch.where(without, index, -1), ids))
            if sum(len(some) for some, _ in self._pending) >= PENDING:
                self._flush()

    def coverage(self) -> float:
        """Share of the slots whose item was seen."""
        return self._store.coverage()

    @torch.no_grad()
    def refresh(self) -> dict[str, float]:
        """New clusters of what was seen; from the second time on they start from the last ones and keep their numbers.

        Returns:
            Numbers to log: clusters, cluster_inertia (mean distance 1 - cos to the centroid), cluster_largest_share,
            cluster_smallest and cluster_median (known items), cluster_drift (mean cosine of the stored and the fresh
            features of items that were seen again since the last refresh; absent where none was).

        Raises:
            RuntimeError: nothing was seen yet.
        """
        rows = self._store.seen.nonzero().squeeze(1)
        if len(rows) == 0:
            raise RuntimeError("there is nothing to cluster: no features were observed")
        self._flush()
        k = min(self.num_clusters, len(rows))
        warm = self.centroids is not None and len(self.centroids) == k
        self._centre(rows)
        ids, centroids, inertia = self._fit(rows, k, self.centroids if warm else None)
        if not warm:
            self.ids.fill_(-1)
        self.centroids = centroids
        self.ids[self._store.items[rows].cpu()] = ids.cpu()
        self.sizes = _sizes(self.ids, k)
        return self._diagnostics(inertia)

    def ids_of(self, index: Tensor) -> Tensor:
        """Cluster ids (n,) int32 of items (n,), on their device, without a copy of all ids."""
        return self.ids[index.cpu() % self.num_items].to(index.device)

    def joint(self, image: Tensor, text: Tensor) -> Tensor:
        """Where pairs lie among the clusters: unit rows (n, d) of centred image plus centred text features."""
        return F.normalize((image.float() - self._means[0]) + (text.float() - self._means[1]), dim=1)

    def assign_image(self, image: Tensor) -> Tensor:
        """Nearest centroid (n,) int32 of image features (n, d) alone; -1 before the first refresh."""
        return self._assign_centred(image.float() - self._means[0])

    def assign_text(self, text: Tensor) -> Tensor:
        """Nearest centroid (n,) int32 of text features (n, d) alone; -1 before the first refresh."""
        return self._assign_centred(text.float() - self._means[1])

    def stored(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is remembered of items (n,): image and text features (n, d) float32, and which were seen (n,) bool."""
        return self._store.get(index.to(self.device) % self.num_items)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as tensors (not copies) and None."""
        index, ids = (torch.cat(part) for part in zip(*self._pending, strict=True))
        return {
            "ids": self.ids,
            "centroids": self.centroids,
            "sizes": self.sizes,
            "means": self._means,
            "pending_index": index,
            "pending_ids": ids,
            "features": self._store.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: the state is of another number of items or slots, another seed or another embed_dim.
        """
        if state["ids"].shape != self.ids.shape:
            raise ValueError(f"the stored clusters are those of {len(state['ids'])} items, not {self.num_items}")
        self._store.load_state_dict(state["features"])
        self.ids.copy_(state["ids"])
        self.sizes = state["sizes"].to("cpu", copy=True)
        self.centroids = None if state["centroids"] is None else state["centroids"].to(self.device, copy=True)
        self._means.copy_(state["means"])
        pending = (state[name].to(self.device, copy=True) for name in ("pending_index", "pending_ids"))
        self._pending = [(next(pending), next(pending))]

    def _nothing(self) -> list[tuple[Tensor, Tensor]]:
        empty = torch.zeros(0, dtype=torch.long, device=self.device)
        return [(empty, empty.int())]

    def _flush(self) -> None:
        """Write the ids that wait, as rank 0 has them; all ranks come here in the same step."""
        index, ids = (torch.cat(part) for part in zip(*self._pending, strict=True))
        self._pending = self._nothing()
        if len(ids) == 0:
            return
        ids = distributed.broadcast(ids).cpu()
        index = index.cpu()
        self.ids[index[index >= 0]] = ids[index >= 0]

    def _centre(self, rows: Tensor) -> None:
        """Means of both modalities over the seen slots."""
        for mean, store in zip(self._means, (self._store.image, self._store.text), strict=True):
            sums = [store[piece].float().sum(0) for piece in torch.split(rows, PIECE)]
            mean.copy_(torch.stack(sums).sum(0) / len(rows))
        distributed.broadcast(self._means)

    def _fit(self, rows: Tensor, k: int, centroids: Tensor | None) -> tuple[Tensor, Tensor, float]:
        """Ids of the rows, centroids and inertia; rank 0 finds them and tells the others."""
        found = torch.zeros(k, self._means.shape[1], device=self.device)
        ids = torch.zeros(len(rows), dtype=torch.int32, device=self.device)
        inertia = torch.zeros(1, device=self.device)
        if distributed.rank() == 0:
            joint = torch.empty(len(rows), self._means.shape[1], dtype=torch.float16, device=self.device)
            for piece, into in zip(torch.split(rows, PIECE), torch.split(joint, PIECE), strict=True):
                into.copy_(self.joint(self._store.image[piece], self._store.text[piece]))
            result = spherical_kmeans(joint, k, seed=self.seed, centroids=centroids)
            found, ids = result.centroids, result.ids
            inertia.fill_(result.inertia)
        for tensor in (found, ids, inertia):
            distributed.broadcast(tensor)
        return ids, found, float(inertia)

    def _assign_centred(self, centred: Tensor) -> Tensor:
        if self.centroids is None:
            return torch.full((len(centred),), -1, dtype=torch.int32, device=centred.device)
        return assign(centred, self.centroids)[0]

    def _diagnostics(self, inertia: float) -> dict[str, float]:
        sizes = self.sizes.float()
        values = {
            "clusters": float(len(sizes)),
            "cluster_inertia": inertia,
            "cluster_largest_share": float(sizes.max() / sizes.sum()),
            "cluster_smallest": float(sizes.min()),
            "cluster_median": float(sizes.median()),
        }
        drift = self._store.take_drift()
        return values if drift is None else values | {"cluster_drift": drift}


def _sizes(ids: Tensor, k: int) -> Tensor:
    """Items (k,) of each cluster, piece by piece: bincount makes an int64 copy of what it is given."""
    total = torch.zeros(k + 1, dtype=torch.long)
    for piece in torch.split(ids, 1 << 22):
        total += torch.bincount(piece + 1, minlength=k + 1)
    return total[1:]
