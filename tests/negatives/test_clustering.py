"""Clusters of the training pairs: what is kept, how ids follow, resuming, several processes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from mmcontrast import distributed
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.feature_store import FeatureStore
from mmcontrast.negatives.kmeans import assign

CPU = torch.device("cpu")


def pairs(n: int = 400, d: int = 16, k: int = 10, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Image and text features (n, d) in two narrow cones, as encoders make them, and the true clusters (n,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(k, d, generator=generator)
    truth = torch.arange(n) % k
    cones = 3 * torch.randn(2, d, generator=generator)
    image, text = (
        F.normalize(centres[truth] + cone + noise * torch.randn(n, d, generator=generator), dim=1) for cone in cones
    )
    return image, text, truth


def observe_all(clusters: Clusters, image: Tensor, text: Tensor, batch: int = 50) -> None:
    for rows in torch.arange(len(image)).split(batch):
        clusters.observe(rows, image[rows], text[rows])


def agree(ids: Tensor, truth: Tensor) -> bool:
    """Whether two partitions are the same but for names."""
    return len(set(zip(ids.tolist(), truth.tolist(), strict=True))) == len(ids.unique()) == len(truth.unique())


def small(n: int = 400, **changes: Any) -> Clusters:
    return Clusters(n, 16, **{"items_per_cluster": 40, "seed": 0, "device": CPU} | changes)


def test_features_become_clusters() -> None:
    image, text, truth = pairs()
    clusters = small()
    assert clusters.coverage() == 0
    assert (clusters.ids == -1).all()
    assert clusters.centroids is None
    assert len(clusters.sizes) == 0
    observe_all(clusters, image[:200], text[:200])
    assert clusters.coverage() == 0.5
    observe_all(clusters, image, text)
    values = clusters.refresh()
    assert agree(clusters.ids, truth)
    assert clusters.ids.dtype == torch.int32
    assert clusters.centroids is not None
    assert clusters.centroids.shape == (10, 16)
    assert clusters.sizes.tolist() == [40] * 10
    assert values["clusters"] == 10
    assert values["cluster_largest_share"] == pytest.approx(0.1)
    assert values["cluster_smallest"] == values["cluster_median"] == 40
    assert values["cluster_drift"] == pytest.approx(1, abs=1e-3)  # the first half came twice, unchanged
    joint = clusters.joint(image, text)
    ids, cosines = assign(joint, clusters.centroids)
    assert torch.equal(ids, clusters.ids)
    assert values["cluster_inertia"] == pytest.approx(1 - cosines.mean().item(), abs=1e-3)
    assert all(type(value) is float for value in values.values())


def test_joint_is_the_centred_sum() -> None:
    image, text, _ = pairs()
    clusters = small()
    observe_all(clusters, image, text)
    clusters.refresh()
    expected = F.normalize(image - image.mean(0) + text - text.mean(0), dim=1)
    torch.testing.assert_close(clusters.joint(image, text), expected, atol=1e-3, rtol=0)


def test_each_modality_alone_finds_the_joint_cluster() -> None:
    image, text, truth = pairs(noise=0.1)
    clusters = small()
    assert (clusters.assign_image(image) == -1).all()
    observe_all(clusters, image, text)
    clusters.refresh()
    assert torch.equal(clusters.assign_image(image), clusters.ids)
    assert torch.equal(clusters.assign_text(text), clusters.ids)
    # without centring it would not: both cones are narrow, and all of a modality is nearest to one centroid
    assert clusters.centroids is not None
    raw, _ = assign(image, clusters.centroids)
    assert not agree(raw, truth)


def test_unseen_items_stay_unknown() -> None:
    image, text, truth = pairs()
    clusters = small()
    observe_all(clusters, image[:300], text[:300])
    clusters.refresh()
    assert agree(clusters.ids[:300], truth[:300])
    assert (clusters.ids[300:] == -1).all()
    assert clusters.sizes.sum() == 300
    with pytest.raises(RuntimeError, match="nothing to cluster"):
        small().refresh()


def test_refresh_keeps_numbers_and_measures_drift() -> None:
    image, text, _ = pairs()
    clusters = small()
    observe_all(clusters, image, text)
    assert "cluster_drift" not in clusters.refresh()  # nothing came twice
    before = clusters.ids.clone()
    generator = torch.Generator().manual_seed(5)
    moved = F.normalize(image + 0.05 * torch.randn(image.shape, generator=generator), dim=1)
    observe_all(clusters, moved, text)
    expected = ((F.cosine_similarity(image, moved) + 1) / 2).mean().item()
    assert clusters.refresh()["cluster_drift"] == pytest.approx(expected, abs=1e-3)
    assert torch.equal(before, clusters.ids)


def test_stored_features() -> None:
    image, text, _ = pairs()
    clusters = small()
    clusters.observe(torch.tensor([7, 3]), image[:2], text[:2])
    stored_image, stored_text, seen = clusters.stored(torch.tensor([3, 5, 7, 407]))  # 407 is item 7
    assert seen.tolist() == [True, False, True, True]
    torch.testing.assert_close(stored_image[[0, 2, 3]], image[[1, 0, 0]], atol=1e-3, rtol=0)
    torch.testing.assert_close(stored_text[[0, 2, 3]], text[[1, 0, 0]], atol=1e-3, rtol=0)
    assert stored_image.dtype == torch.float32
    assert (stored_image[1] == 0).all()


def test_features_that_are_not_finite_are_passed_over() -> None:
    image, text, truth = pairs()
    clusters = small()
    observe_all(clusters, image, text)
    broken = image[:4].clone()
    broken[0, 0], broken[1, 2] = float("nan"), float("inf")
    clusters.observe(torch.arange(4), broken, text[:4])
    torch.testing.assert_close(clusters.stored(torch.arange(4))[0], image[:4], atol=1e-3, rtol=0)
    assert clusters.refresh()["cluster_drift"] == pytest.approx(1, abs=1e-3)
    assert agree(clusters.ids, truth)


def test_observe_needs_no_gradient_and_keeps_none() -> None:
    image, text, _ = pairs()
    image.requires_grad_()
    clusters = small()
    observe_all(clusters, image, text)
    clusters.refresh()
    assert not clusters.stored(torch.arange(3))[0].requires_grad
    assert clusters.centroids is not None
    assert not clusters.centroids.requires_grad


@pytest.mark.parametrize(("items", "slots"), [(1000, 100), (1001, 100), (103, 100), (5, 2), (7, 1)])
def test_slots_are_one_item_of_each_stretch(items: int, slots: int) -> None:
    store = FeatureStore(items, 4, slots, seed=0, device=CPU)
    assert len(store.items) == slots
    assert (store.items.diff() > 0).all()
    found = store.slot(torch.arange(items))
    assert torch.equal(found[store.items], torch.arange(slots))
    assert (found < slots).sum() == slots
    other = FeatureStore(items, 4, slots, seed=1, device=CPU)
    assert items < 20 or not torch.equal(store.items, other.items)


def test_items_of_a_stretch_have_equal_chances() -> None:
    chosen = torch.stack([FeatureStore(40, 4, 10, seed=seed, device=CPU).items for seed in range(2000)])
    counts = torch.bincount(chosen.flatten(), minlength=40)
    assert (counts - 500).abs().max() < 100  # 4.5 standard deviations are 87


def test_more_items_than_capacity() -> None:
    image, text, truth = pairs(n=4000)
    clusters = small(4000, items_per_cluster=400, capacity=500)
    observe_all(clusters, image, text)
    assert clusters.coverage() == 1
    clusters.refresh()
    known = clusters.ids >= 0
    assert known.sum() == 500  # those with a slot
    assert agree(clusters.ids[known], truth[known])
    first = clusters.ids[known].clone()
    observe_all(clusters, image, text)  # now the others learn theirs on the way
    clusters.refresh()
    assert torch.equal(clusters.ids[known], first)
    assert agree(clusters.ids, truth)
    assert clusters.sizes.sum() == 4000
    seen = clusters.stored(torch.arange(4000))[2]
    assert torch.equal(seen, known)


def test_memory_grows_with_the_capacity_and_not_with_the_items() -> None:
    def kept(items: int) -> int:
        state = small(items, capacity=100).state_dict()
        return sum(x.numel() * x.element_size() for x in state["features"].values())

    assert kept(10_000) == kept(1_000_000)
    assert kept(10_000) < 100 * (4 * 16 + 16)


def test_waiting_ids_are_written_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcontrast.negatives.clustering.PENDING", 200)
    image, text, truth = pairs(n=4000)
    clusters = small(4000, items_per_cluster=400, capacity=500)
    observe_all(clusters, image, text)
    clusters.refresh()
    for step, rows in enumerate(torch.arange(400).split(50), 1):
        clusters.observe(rows, image[rows], text[rows])
        written = (clusters.ids[:400] >= 0).sum()
        assert (written > 100) == (step >= 4), step
    assert agree(clusters.ids[:400], truth[:400])


def test_ids_of() -> None:
    image, text, _ = pairs()
    clusters = small()
    observe_all(clusters, image, text)
    clusters.refresh()
    assert torch.equal(clusters.ids_of(torch.tensor([3, 403])), clusters.ids[[3, 3]])


@pytest.mark.parametrize(
    ("items", "changes", "expected"),
    [
        (400, {}, 10),
        (400, {"max_clusters": 4}, 4),
        (10, {}, 1),
        (4000, {"capacity": 160}, 10),  # 16 kept items for each
        (4000, {"capacity": 10}, 1),
    ],
)
def test_number_of_clusters(items: int, changes: dict[str, Any], expected: int) -> None:
    assert small(items, **changes).num_clusters == expected


def test_nonsense_is_refused() -> None:
    for changes in ({"items_per_cluster": 0}, {"max_clusters": 0}, {"capacity": 0}):
        with pytest.raises(ValueError, match="at least one"):
            small(**changes)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("capacity", [10_000, 320], ids=["all kept", "some kept"])
@pytest.mark.parametrize("stop", [0, 30, 100, 130])
def test_resumed_equals_uninterrupted(capacity: int, stop: int) -> None:
    image, text, _ = pairs(n=2000, noise=1.5)

    def steps(clusters: Clusters, begin: int, end: int) -> list[dict[str, float]]:
        said = []
        generator = torch.Generator().manual_seed(1)
        orders = [torch.randperm(2000, generator=generator) for _ in range(6)]
        for step in range(begin, end):
            rows = orders[step // 40].split(50)[step % 40]
            clusters.observe(rows, image[rows] * (1 + step), text[rows])
            if step % 40 == 39:
                said.append(clusters.refresh())
        return said

    whole, first, resumed = (small(2000, capacity=capacity) for _ in range(3))
    expected = steps(whole, 0, 200)
    said = steps(first, 0, stop)
    resumed.load_state_dict(through_a_file(first.state_dict()))
    said += steps(resumed, stop, 200)
    assert said == expected
    assert torch.equal(whole.ids, resumed.ids)
    assert torch.equal(whole.sizes, resumed.sizes)
    assert whole.centroids is not None
    assert resumed.centroids is not None
    assert torch.equal(whole.centroids, resumed.centroids)
    for a, b in zip(whole.stored(torch.arange(2000)), resumed.stored(torch.arange(2000)), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_something_else_is_refused() -> None:
    state = small().state_dict()
    with pytest.raises(ValueError, match="400 items, not 401"):
        small(401).load_state_dict(state)
    with pytest.raises(ValueError, match="another embed_dim"):
        Clusters(400, 8, seed=0, device=CPU).load_state_dict(state)
    with pytest.raises(ValueError, match="another seed"):
        small(capacity=100, seed=1).load_state_dict(small(capacity=100).state_dict())


def worker(rank: int, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    assert distributed.broadcast(torch.tensor([rank + 5])).item() == 5
    assert distributed.broadcast(torch.tensor([rank + 5]), source=1).item() == 6
    image, text, _ = pairs(n=2000, noise=1.5)
    clusters = small(2000, capacity=320, seed=3)
    said = []
    for _ in range(3):
        # ranks differ in the last bits, as they do on GPUs of different kinds
        observe_all(clusters, image * (1 + 1e-3 * rank), text)
        said.append(clusters.refresh())
    torch.save({"state": clusters.state_dict(), "said": said}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(a["state"]["ids"], b["state"]["ids"])
    assert torch.equal(a["state"]["centroids"], b["state"]["centroids"])
    assert torch.equal(a["state"]["means"], b["state"]["means"])
    assert not torch.equal(a["state"]["features"]["image"], b["state"]["features"]["image"])
    alone = small(2000, capacity=320, seed=3)
    image, text, _ = pairs(n=2000, noise=1.5)
    for said in a["said"]:
        observe_all(alone, image, text)
        expected = alone.refresh()
        assert said == pytest.approx(expected, abs=1e-6)
    assert torch.equal(alone.ids, a["state"]["ids"])
