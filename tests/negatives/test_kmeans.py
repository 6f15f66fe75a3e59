"""Spherical k-means against scikit-learn's, and its own promises."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.negatives import kmeans
from mmcontrast.negatives.kmeans import assign, neighbouring, spherical_kmeans
from mmcontrast.negatives.seeding import plus_plus, prune


def mixture(n: int, d: int, k: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows (n, d) around k random directions, and which of them each row is around."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(k, d, generator=generator), dim=1)
    truth = torch.randint(k, (n,), generator=generator)
    return F.normalize(centres[truth] + noise * torch.randn(n, d, generator=generator) / d**0.5, dim=1), truth


def best_of_sklearn(x: Tensor, k: int, runs: int = 3) -> float:
    """Our inertia at the directions of scikit-learn's centroids, the best of some runs."""
    found = []
    for seed in range(runs):
        centres = SklearnKMeans(k, n_init=1, random_state=seed, max_iter=50).fit(x.numpy()).cluster_centers_
        found.append(1 - assign(x, F.normalize(torch.from_numpy(centres), dim=1))[1].mean().item())
    return min(found)


@pytest.mark.parametrize(
    ("n", "d", "k", "noise"),
    [(3000, 32, 20, 0.5), (6000, 64, 100, 0.6), (4000, 48, 60, 1.5), (3000, 32, 50, 1e3), (3000, 3, 40, 1e3)],
    ids=["separated", "many separated", "overlapping", "no clusters", "no clusters on a globe"],
)
def test_as_good_as_the_best_of_sklearn(n: int, d: int, k: int, noise: float) -> None:
    x, _ = mixture(n, d, k, noise)
    reference = best_of_sklearn(x, k)
    for seed in range(3):
        assert spherical_kmeans(x, k, seed=seed).inertia < 1.03 * reference


def test_separated_clusters_are_found_exactly() -> None:
    x, truth = mixture(1000, 32, 10, 0.3)
    ids = spherical_kmeans(x, 10, seed=1).ids.long()
    pairs = torch.zeros(10, 10).index_put_((ids, truth), torch.ones(()), accumulate=True)
    assert ((pairs > 0).sum(1) == 1).all()
    assert ((pairs > 0).sum(0) == 1).all()


def test_result_is_consistent_with_itself() -> None:
    x, _ = mixture(3000, 16, 30, 1.0)
    result = spherical_kmeans(5 * x, 30, seed=0)  # length does not count
    ids, cosines = assign(x, result.centroids)
    assert torch.equal(ids, result.ids)
    assert ids.dtype == torch.int32
    slow = x @ result.centroids.T
    assert torch.equal(slow.argmax(1), ids.long())
    torch.testing.assert_close(slow.amax(1), cosines)
    assert result.inertia == pytest.approx(1 - cosines.mean().item(), abs=1e-6)
    torch.testing.assert_close(result.centroids.norm(dim=1), torch.ones(30))
    means = F.normalize(torch.zeros(30, 16).index_add_(0, ids.long(), x), dim=1)
    assert (means * result.centroids).sum(1).mean() > 0.999  # a fixed point of Lloyd's iteration, nearly


def test_same_seed_same_result_other_seed_another() -> None:
    x, _ = mixture(2000, 16, 30, 1.5)
    a, b, c = (spherical_kmeans(x, 30, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.centroids, b.centroids)
    assert torch.equal(a.ids, b.ids)
    assert not torch.equal(a.ids, c.ids)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = mixture(3000, 16, 20, 0.5)
    whole = spherical_kmeans(x, 20, seed=0)
    seen = []
    original = kmeans.pieces

    def small(x: Tensor, k: int, order: Tensor | None = None):  # type: ignore[no-untyped-def]
        for start in range(0, len(x) if order is None else len(order), 37):
            rows = x[start : start + 37] if order is None else x[order[start : start + 37]]
            seen.append(len(rows))
            yield start, F.normalize(rows.float(), dim=1)

    monkeypatch.setattr("mmcontrast.negatives.nearest.pieces", small)
    assert max(len(rows) for _, rows in original(x, 20)) > 37
    cut = spherical_kmeans(x, 20, seed=0)
    assert max(seen) == 37
    assert torch.equal(whole.ids, cut.ids)
    torch.testing.assert_close(whole.centroids, cut.centroids, rtol=0, atol=1e-4)


def test_sample_that_grows_is_as_good_as_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = mixture(20_000, 24, 20, 1.5)
    monkeypatch.setattr(kmeans, "SEED_LEAST", 0)
    monkeypatch.setattr(kmeans, "FIT_LEAST", 5000)
    sampled = spherical_kmeans(x, 20, seed=0)
    monkeypatch.setattr(kmeans, "FIT_LEAST", len(x))
    everything = spherical_kmeans(x, 20, seed=0)
    assert len(sampled.ids) == len(x)
    assert sampled.inertia < 1.02 * everything.inertia


def test_warm_start_keeps_numbers() -> None:
    x, _ = mixture(2000, 32, 20, 0.5)
    first = spherical_kmeans(x, 20, seed=0)
    moved = F.normalize(x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    second = spherical_kmeans(moved, 20, seed=7, centroids=first.centroids)
    assert torch.equal(first.ids, second.ids)
    assert second.iterations < 5
    cold = spherical_kmeans(moved, 20, seed=7)
    assert not torch.equal(cold.ids, second.ids)


def test_empty_clusters_are_filled() -> None:
    x, truth = mixture(2000, 32, 20, 0.3)
    only = F.normalize(x[truth == 0].mean(0), dim=0).expand(20, 32).clone()  # all centroids on one true cluster
    stuck = 1 - (x @ only[0]).mean().item()
    result = spherical_kmeans(x, 20, seed=0, centroids=only)
    assert (torch.bincount(result.ids, minlength=20) > 0).all()
    assert result.inertia < 0.5 * stuck
    fresh = spherical_kmeans(x, 20, seed=0, iterations=0, centroids=only)  # the last assignment fills them too
    assert (torch.bincount(fresh.ids, minlength=20) > 0).all()
    assert torch.equal(assign(x, fresh.centroids)[0], fresh.ids)


@pytest.mark.parametrize("k", [1, 2, 7, 50])
def test_degenerate_data(k: int) -> None:
    twice = F.normalize(torch.randn(25, 8, generator=torch.Generator().manual_seed(0)), dim=1).repeat(2, 1)
    zero = torch.zeros(50, 8)
    for x in (twice, zero, twice[:1].expand(50, 8)):
        result = spherical_kmeans(x, k, seed=0)
        assert torch.isfinite(result.centroids).all()
        assert result.ids.min() >= 0
        assert result.ids.max() < k
    assert spherical_kmeans(twice, 50, seed=0).inertia == pytest.approx(0, abs=1e-5)
    assert len(spherical_kmeans(twice, 25, seed=0).ids.unique()) == 25  # one per distinct point


def test_a_row_without_direction_pulls_nothing() -> None:
    x, _ = mixture(500, 16, 5, 0.4)
    with_zeros = torch.cat([x, torch.zeros(3, 16)])
    a, b = spherical_kmeans(x, 5, seed=0), spherical_kmeans(with_zeros, 5, seed=0)
    assert (a.centroids @ b.centroids.T).amax(1).min() > 0.999


def test_half_precision() -> None:
    x, _ = mixture(2000, 32, 20, 0.5)
    a, b = spherical_kmeans(x, 20, seed=0), spherical_kmeans(x.half(), 20, seed=0)
    assert b.centroids.dtype == torch.float32
    assert (a.ids == b.ids).float().mean() > 0.99


def test_faults_are_named() -> None:
    x, _ = mixture(10, 4, 2, 0.5)
    for k in (0, 11):
        with pytest.raises(ValueError, match="there must be 1 to 10"):
            spherical_kmeans(x, k, seed=0)
    with pytest.raises(ValueError, match="cannot start 2 clusters in 4-D"):
        spherical_kmeans(x, 2, seed=0, centroids=x[:2, :3])
    for bad in (float("nan"), float("inf")):
        broken = x.clone()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match="not finite"):
            spherical_kmeans(broken, 2, seed=0)


def test_neighbouring() -> None:
    centroids = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    near = neighbouring(centroids, 5)
    scores = centroids @ centroids.T
    for i in range(40):
        ranked = [j for j in scores[i].argsort(descending=True).tolist() if j != i]
        assert near[i].tolist() == ranked[:5]
    assert neighbouring(centroids[:3], 5).shape == (3, 2)
    assert neighbouring(centroids[:1], 5).shape == (1, 0)


def test_blocks_of_seeds_have_the_odds_of_one_by_one() -> None:
    """The second and third seed of many draws, against the exact probabilities of D^2 sampling."""
    x = F.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(2)), dim=1)
    distance = (1 - x @ x.T).clamp(min=0).fill_diagonal_(0)
    expected = torch.zeros(6, 6, 6)
    for i in range(6):
        second = distance[i] / distance[i].sum()
        for j in range(6):
            if j != i:
                third = torch.minimum(distance[i], distance[j])
                expected[i, j] = second[j] / 6 * third / third.sum()
    draws, counts = 3000, torch.zeros(6, 6, 6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        picked = (plus_plus(x, 3, generator) @ x.T).argmax(1)
        counts[tuple(picked.tolist())] += 1
    deviation = (counts / draws - expected).abs() / (expected * (1 - expected) / draws).sqrt().clamp(min=1e-9)
    assert deviation[expected > 0].max() < 4.5
    assert counts[expected == 0].sum() == 0


def test_seeds_are_distinct_while_there_are_points() -> None:
    x, _ = mixture(300, 16, 300, 1.0)
    seeds = plus_plus(x, 300, torch.Generator().manual_seed(0))
    assert len(seeds.unique(dim=0)) == 300


def test_prune_keeps_one_centroid_per_cluster() -> None:
    x, truth = mixture(1000, 32, 10, 0.3)
    twice = torch.cat([x[(truth == c).nonzero()[:2, 0]] for c in range(10)])
    kept = prune(x, twice, 10)
    assert sorted(truth[(kept @ x.T).argmax(1)].tolist()) == list(range(10))
