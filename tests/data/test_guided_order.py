from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from mmcontrast.data import key_conflicts
from mmcontrast.data.guided_order import group_starts, guided_order
from mmcontrast.data.key_conflicts import later_sharers, separate
from mmcontrast.data.sampler import epoch_order
from mmcontrast.errors import ConfigError

Ints = NDArray[np.integer]


def batches_of(order: Ints, batch_size: int) -> Ints:
    whole = len(order) // batch_size
    return order[: whole * batch_size].reshape(whole, batch_size)


def groups_of(order: Ints, batch_size: int, share: float, group: int) -> Ints:
    """(batches, groups, group) the slots in which groups stand."""
    slots = group_starts(batch_size, share, group)[:, None] + np.arange(group)
    return batches_of(order, batch_size)[:, slots]


def random_case(seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    n, clusters = int(rng.integers(1, 600)), int(rng.integers(1, 40))
    case: dict[str, object] = {
        "cluster_ids": rng.integers(-1, clusters, n).astype(np.int32),
        "batch_size": int(rng.integers(1, 70)),
        "share": float(rng.choice([0, 0.1, 0.25, 0.5, 1])),
        "group": int(rng.integers(1, 9)),
        "seed": seed,
        "epoch": int(rng.integers(0, 5)),
        "window": int(rng.choice([1, 64, 200, 1 << 21])),
    }
    if rng.random() < 0.6:
        case["neighbours"] = rng.integers(-1, clusters, (clusters, int(rng.integers(0, 4)))).astype(np.int32)
    if rng.random() < 0.5:
        case["exclude_keys"] = rng.integers(0, int(rng.choice([2, 20, 1000])), (n, int(rng.integers(0, 4))))
    if rng.random() < 0.5:
        case["allow"] = lambda groups: (groups * 7919 + seed) % 5 != 0
    if rng.random() < 0.4:
        case["items"] = rng.permutation(n)[: int(rng.integers(0, n + 1))]
    return case


@pytest.mark.parametrize("seed", range(300))
def test_every_item_exactly_once(seed: int) -> None:
    case = random_case(seed)
    order = guided_order(**case)  # type: ignore[arg-type]
    expected = case.get("items", np.arange(len(case["cluster_ids"])))  # type: ignore[arg-type]
    assert np.array_equal(np.sort(order), np.sort(expected))  # type: ignore[arg-type]
    assert np.array_equal(order, guided_order(**case))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 7, -5])
@pytest.mark.parametrize("window", [64, 1 << 21])
def test_without_a_share_or_known_clusters_it_is_the_plain_order(seed: int, window: int) -> None:
    known, unknown = np.arange(500, dtype=np.int32) % 10, np.full(500, -1, dtype=np.int32)
    keys = np.ones((500, 1), dtype=np.int64)
    for ids, share in ((known, 0.0), (unknown, 0.5), (known, 0.01)):
        order = guided_order(ids, 32, share=share, group=4, seed=seed, epoch=3, window=window, exclude_keys=keys)
        assert np.array_equal(order, epoch_order(500, seed, 3))
    guided = guided_order(known, 32, share=0.5, group=4, seed=seed, epoch=3, window=window)
    assert not np.array_equal(guided, epoch_order(500, seed, 3))


def test_seed_and_epoch_change_the_order_and_items_are_not_written_to() -> None:
    ids, items = np.arange(400, dtype=np.int32) % 8, np.arange(300)
    orders = [
        guided_order(ids, 40, share=0.5, group=4, seed=seed, epoch=epoch, items=items)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))
    assert np.array_equal(items, np.arange(300))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("window", [500, 1 << 21])
def test_groups_are_of_one_cluster(share: float, window: int) -> None:
    ids = np.random.default_rng(0).integers(0, 20, 5000).astype(np.int32)
    order = guided_order(ids, 64, share=share, group=4, seed=1, epoch=0, window=window)
    clusters = ids[groups_of(order, 64, share, 4)]
    pure = (clusters == clusters[..., :1]).all(axis=-1)
    if share < 1:
        assert clusters.shape[1] == round(share * 16)
        assert pure.all()
    else:  # the remainders of 20 clusters in each window fill the last places
        assert pure.mean() > (0.98 if window > 5000 else 0.85)


def test_the_rest_of_a_batch_is_uniform() -> None:
    ids = np.repeat(np.arange(100), 40).astype(np.int32)
    together, plain = 0.0, 0.0
    for seed in range(20):
        order = guided_order(ids, 100, share=0.4, group=4, seed=seed, epoch=0)
        slots = group_starts(100, 0.4, 4)[:, None] + np.arange(4)
        rest = np.delete(batches_of(ids[order], 100), slots.ravel(), axis=1)
        together += (rest[:, :, None] == rest[:, None]).sum() - rest.size
        rest = batches_of(ids[epoch_order(4000, seed, 0)], 100)[:, : rest.shape[1]]
        plain += (rest[:, :, None] == rest[:, None]).sum() - rest.size
    assert together == pytest.approx(plain, rel=0.1)


def test_small_clusters_are_filled_up_from_neighbours_only() -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(300), 3).astype(np.int32)  # none has four members
    ring = (np.arange(300)[:, None] + [1, -1, 2, -2]) % 300
    assert np.array_equal(
        guided_order(ids, 30, share=0.4, group=4, seed=0, epoch=0), epoch_order(900, 0, 0)
    )  # no group can be made
    order = guided_order(ids, 30, share=0.4, group=4, seed=0, epoch=0, neighbours=ring)
    found = ids[groups_of(order, 30, 0.4, 4)].reshape(-1, 4)
    assert len(found) == 3 * 30
    for members in found:
        assert any(set(members) <= {anchor, *ring[anchor]} for anchor in members)
    far = rng.permutation(300)[ring]
    assert not all(any(set(m) <= {a, *far[a]} for a in m) for m in found)  # the check itself can fail


def test_unknown_items_are_never_in_a_group() -> None:
    ids = np.random.default_rng(0).integers(0, 10, 2000).astype(np.int32)
    ids[::2] = -1
    order = guided_order(ids, 50, share=0.4, group=5, seed=0, epoch=0)
    assert (ids[groups_of(order, 50, 0.4, 5)] >= 0).all()


def test_members_of_a_cluster_have_equal_chances() -> None:
    ids = np.array([0] * 10 + [1] * 30 + [2] * 80 + [-1] * 80, dtype=np.int32)
    counts, runs = np.zeros(200), 3000
    for seed in range(runs):
        order = guided_order(ids, 40, share=0.2, group=4, seed=seed, epoch=0)
        counts[groups_of(order, 40, 0.2, 4).ravel()] += 1
    for cluster in range(3):
        chance = counts[ids == cluster] / runs
        spread = np.sqrt(chance.mean() * (1 - chance.mean()) / runs)
        assert np.abs(chance - chance.mean()).max() < 4.5 * spread
        assert chance.mean() > 0.2
    assert counts[ids < 0].sum() == 0


def test_groups_are_spread_over_the_batch() -> None:
    starts = group_starts(64, 0.25, 4)
    assert starts.tolist() == [0, 16, 32, 48]
    assert group_starts(64, 1.0, 4).tolist() == list(range(0, 64, 4))
    assert group_starts(10, 1.0, 4).tolist() == [0, 5]
    assert group_starts(3, 1.0, 4).tolist() == []
    with pytest.raises(ConfigError, match=r"share = 1.5"):
        group_starts(8, 1.5, 2)


def conflicts(order: Ints, keys: Ints, batch_size: int) -> int:
    found = 0
    for batch in batches_of(order, batch_size):
        for column, other in itertools.product(keys.T, keys.T):
            same = (column[batch][:, None] == other[batch]) & (column[batch][:, None] != 0)
            found += int(np.triu(same, 1).sum())
    return found


@pytest.mark.parametrize("window", [1000, 1 << 21])
def test_items_that_share_a_key_lie_in_different_batches(window: int) -> None:
    rng = np.random.default_rng(0)
    keys = np.zeros((4000, 2), dtype=np.int64)
    keys[:, 0] = np.where(rng.random(4000) < 0.5, rng.integers(1, 900, 4000), 0)  # groups of about two
    keys[:, 1] = rng.integers(-3000, 3000, 4000)
    ids = (keys[:, 0] % 13).astype(np.int32)  # who shares a key is in the same cluster
    options = {"share": 0.5, "group": 4, "seed": 0, "epoch": 0, "window": window}
    without = guided_order(ids, 50, **options)  # type: ignore[arg-type]
    order = guided_order(ids, 50, exclude_keys=keys, **options)  # type: ignore[arg-type]
    assert conflicts(without, keys, 50) > 60
    assert conflicts(order, keys, 50) == 0
    clusters = ids[groups_of(order, 50, 0.5, 4)]
    assert (clusters == clusters[..., :1]).all(axis=-1).mean() > 0.9  # the groups are still there
    assert np.array_equal(np.sort(order), np.arange(4000))


def test_what_cannot_be_separated_is_not_lost() -> None:
    rng = np.random.default_rng(0)
    keys = np.where(rng.random((2000, 1)) < 0.91, rng.integers(1, 30, (2000, 1)), 0)
    ids = np.zeros(2000, dtype=np.int32)
    order = guided_order(ids, 128, share=0.25, group=4, seed=0, epoch=0, exclude_keys=keys)
    assert np.array_equal(np.sort(order), np.arange(2000))
    assert conflicts(order, keys, 128) < conflicts(epoch_order(2000, 0, 0), keys, 128)


def test_refused_members_leave_their_group_and_are_replaced() -> None:
    ids = np.random.default_rng(0).integers(0, 50, 3000).astype(np.int32)

    def odd_ones_apart(groups: Ints) -> NDArray[np.bool_]:
        """At most one odd number in a group."""
        odd = groups % 2 == 1
        return ~(odd & (np.cumsum(odd, axis=1) > 1))

    order = guided_order(ids, 60, share=0.2, group=4, seed=0, epoch=0, allow=odd_ones_apart)
    groups = groups_of(order, 60, 0.2, 4).reshape(-1, 4)
    whole = (ids[groups] == ids[groups[:, :1]]).all(axis=1)
    assert (groups[whole] % 2).sum(axis=1).max() == 1
    assert whole.mean() > 0.4  # .31 of them would be without replacement
    assert np.array_equal(np.sort(order), np.arange(3000))
    nobody = guided_order(
        ids, 60, share=0.2, group=4, seed=0, epoch=0, allow=lambda groups: np.zeros(groups.shape, dtype=bool)
    )
    assert np.array_equal(nobody, epoch_order(3000, 0, 0))


def test_later_sharers_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    unit, keys, rank = rng.integers(0, 5, 60), rng.integers(0, 40, (60, 3)), rng.permutation(60)
    expected = np.zeros(60, dtype=bool)
    for i, j in itertools.permutations(range(60), 2):
        shared = (set(keys[i].tolist()) & set(keys[j].tolist())) - {0}
        expected[i] |= bool(shared) and unit[i] == unit[j] and rank[j] < rank[i]
    assert np.array_equal(later_sharers(unit, keys, rank), expected)
    assert 10 < expected.sum() < 50
    assert not later_sharers(np.zeros(3, dtype=int), np.array([[5, 5], [0, 0], [0, 7]])).any()


def test_separating_prefers_to_move_uniform_items() -> None:
    keys = np.zeros((8, 1), dtype=np.int64)
    keys[[0, 1]] = 9
    arrangement, guided = np.arange(8), np.arange(8) == 1
    separate(arrangement, keys, guided, 4, np.random.default_rng(0))
    assert arrangement[1] == 1
    assert 0 in arrangement[4:]
    assert sorted(arrangement.tolist()) == list(range(8))


def test_hopeless_data_are_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    count = key_conflicts._occurrences
    monkeypatch.setattr(key_conflicts, "_occurrences", lambda *args: tried.append(1) or count(*args))
    rng = np.random.default_rng(0)
    for distinct, rounds in ((20, 1), (1000, 12)):  # a batch of 64 with 5 keys of 20 each, or of 1000
        tried.clear()
        arrangement, keys = rng.permutation(6400), rng.integers(1, distinct + 1, (6400, 5 if distinct == 20 else 1))
        before = conflicts(arrangement, keys, 64)
        separate(arrangement, keys, np.zeros(6400, dtype=bool), 64, rng)
        assert np.array_equal(np.sort(arrangement), np.arange(6400))
        assert conflicts(arrangement, keys, 64) <= before
        assert 2 <= len(tried) <= 2 * rounds
        assert (distinct == 20) or conflicts(arrangement, keys, 64) == 0
