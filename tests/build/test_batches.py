from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmcontrast.build.guidance import Guidance, keeps_apart
from mmcontrast.build.map_batches import MapBatches
from mmcontrast.build.stream_batches import POOL, StreamBatches
from mmcontrast.data import Draw, GlobalBatchSampler, epoch_order
from mmcontrast.data.guided_order import group_starts
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.types import PairBatch

ITEMS, BATCH, DIM = 403, 20, 16
OPTIONS: dict[str, Any] = {"share": 0.4, "group": 4, "seed": 5, "neighbours": 2}


def make_batch(index: Tensor, epoch: int = 0) -> PairBatch:
    count = len(index)
    ones = torch.ones(count, 2, dtype=torch.int64)
    keys = index * 3 + 1_000_003
    return PairBatch(
        image=torch.zeros(count, 3, 1, 1, dtype=torch.uint8),
        input_ids=ones * epoch,
        attention_mask=ones,
        index=index,
        caption_key=keys,
        caption_keys=keys[:, None],
        group_key=torch.zeros_like(index),
        label=torch.full_like(index, -1),
    )


def features(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Features of ten kinds of items that drift with the steps, so that clusters change a little."""
    kinds = torch.randn(10, DIM, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(step))[index % ITEMS]
    image = torch.nn.functional.normalize(kinds[index % 10] + 0.2 * noise, dim=1)
    return image, torch.nn.functional.normalize(kinds[index % 10] + 0.2 * noise.flip(1), dim=1)


class Numbers(Dataset[Draw]):
    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, draw: Draw) -> Draw:
        return draw


def collate(draws: list[Draw]) -> PairBatch:
    return make_batch(torch.tensor([draw.index for draw in draws]), draws[0].epoch)


class Stream(IterableDataset[int]):
    """Numbers without end, in a random order of their own; what a rank reads differs from others'."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.readers, self.shuffle_buffer, self.stream = None, 0, SimpleNamespace(mixture=None)

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        number = 0
        while True:
            yield from (np.random.default_rng(number).permutation(ITEMS) + ITEMS * number)[
                self.rank :: self.world_size
            ].tolist()
            number += 1


def collate_numbers(numbers: list[int]) -> PairBatch:
    return make_batch(torch.tensor(numbers))


def clusters(items: int = ITEMS, seed: int = 0) -> Clusters:
    return Clusters(items, DIM, items_per_cluster=20, seed=seed, device=torch.device("cpu"))


class Run:
    """A training that only feeds features back; `state` and `restore` are what checkpoints do."""

    def __init__(self, *, workers: int = 0, rank: int = 0, world_size: int = 1, **options: Any) -> None:
        self.clusters = clusters()
        self.guidance = Guidance(self.clusters, **(OPTIONS | options))
        self.sampler = GlobalBatchSampler(ITEMS, BATCH, seed=5, rank=rank, world_size=world_size)
        extra: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 3} if workers else {}
        loader: DataLoader[Any] = DataLoader(
            Numbers(), batch_sampler=self.sampler, collate_fn=collate, num_workers=workers, **extra
        )
        self.batches: MapBatches | StreamBatches = MapBatches(loader, self.sampler, ITEMS, self.guidance)
        self.step, self.epoch, self.batch = 0, 0, 0

    def train(self, steps: int) -> list[list[int]]:
        seen: list[list[int]] = []
        while len(seen) < steps:
            for batch in self.batches.epoch(self.epoch, self.batch):
                index = self.global_index(batch)
                self.clusters.observe(index, *features(index, self.step))
                seen.append(batch.index.tolist())
                self.step, self.batch = self.step + 1, self.batch + 1
                if len(seen) == steps:
                    return seen
            self.epoch, self.batch = self.epoch + 1, 0
        return seen

    def global_index(self, batch: PairBatch) -> Tensor:
        return batch.index

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "clusters": self.clusters.state_dict(),
                "batches": self.batches.state_dict(),
                "at": (self.step, self.epoch, self.batch),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        self.clusters.load_state_dict(state["clusters"])
        self.batches.load_state_dict(state["batches"])
        self.step, self.epoch, self.batch = state["at"]


class StreamRun(Run):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clusters = clusters(ITEMS)
        self.guidance = Guidance(
            self.clusters, **({"refresh_every_steps": 25, "min_coverage": 0.0} | OPTIONS | options)
        )
        loader: DataLoader[Any] = DataLoader(Stream(), batch_size=BATCH, collate_fn=collate_numbers)
        self.batches = StreamBatches(loader, loader.dataset, self.guidance)  # type: ignore[arg-type]

    def global_index(self, batch: PairBatch) -> Tensor:
        return batch.index % ITEMS


def same_kind(batches: list[list[int]]) -> float:
    """Share of groups' slots that hold an item of the kind of the group's first."""
    slots = group_starts(BATCH, 0.4, 4)[:, None] + np.arange(4)
    kinds = np.array(batches)[:, slots] % 10
    return float((kinds[..., 1:] == kinds[..., :1]).mean())


PER_EPOCH = ITEMS // BATCH


def plan_points(every: int | None) -> set[int]:
    """Steps at which an epoch, or the rest of one, may be planned: half the items must have been seen by then."""
    return {step for step in range(99) if step % PER_EPOCH == 0 or (every and step % every == 0)}


@pytest.mark.parametrize("every", [None, 1, 7, 20, 33])
@pytest.mark.parametrize("start", [0, 25])
def test_every_item_at_most_once_an_epoch_however_often_it_is_planned_anew(every: int | None, start: int) -> None:
    run = Run(refresh_every_steps=every, start_step=start)
    epochs = [run.train(PER_EPOCH) for _ in range(4)]
    for epoch, batches in enumerate(epochs):
        flat = [index for batch in batches for index in batch]
        assert len(flat) == len(set(flat)) == PER_EPOCH * BATCH
        plain = flat == epoch_order(ITEMS, 5, epoch)[: len(flat)].tolist()
        first_plan = next(step for step in range(start, 99) if step >= 10 and step in plan_points(every))
        assert plain == (first_plan >= (epoch + 1) * PER_EPOCH)
    assert same_kind(epochs[3]) > 0.9
    assert same_kind(epochs[0]) < 0.7
    assert run.batches.diagnostics["clusters"] == 20
    assert "cluster_drift" in run.batches.diagnostics


def test_without_a_share_the_order_is_plain_and_clusters_are_known_all_the_same() -> None:
    run = Run(share=0.0, refresh_every_steps=7)
    for epoch in range(2):
        flat = [index for batch in run.train(PER_EPOCH) for index in batch]
        assert flat == epoch_order(ITEMS, 5, epoch)[: len(flat)].tolist()
    assert run.clusters.centroids is not None


@pytest.mark.parametrize("kind", [Run, StreamRun])
@pytest.mark.parametrize("every", [None, 6])
@pytest.mark.parametrize("stop", [3, 20, 24, 30, 42, 43, 60])
def test_resuming_changes_nothing(kind: type[Run], every: int | None, stop: int) -> None:
    if kind is StreamRun and every is None:
        every = 25
    whole = kind(refresh_every_steps=every)
    expected = whole.train(80)
    first, second = kind(refresh_every_steps=every), kind(refresh_every_steps=every)
    assert first.train(stop) == expected[:stop]
    second.restore(first.state())
    assert second.train(80 - stop) == expected[stop:]
    assert second.batches.diagnostics == whole.batches.diagnostics
    assert whole.guidance.state_dict() == second.guidance.state_dict()


def test_a_resumed_run_needs_the_state() -> None:
    """The tests above could not fail if the plan followed from the epoch alone."""
    whole, first, second = Run(), Run(), Run()
    expected = whole.train(50)
    first.train(30)
    state = first.state()
    second.clusters.load_state_dict(state["clusters"])
    second.step, second.epoch, second.batch = state["at"]
    assert second.train(20) != expected[30:]


def test_workers_change_nothing() -> None:
    assert Run(refresh_every_steps=7).train(70) == Run(refresh_every_steps=7, workers=2).train(70)


def test_ranks_get_slices_of_the_same_global_batches() -> None:
    whole = Run(refresh_every_steps=7)
    expected = whole.train(50)
    parts = []
    for rank in range(2):
        run = Run(refresh_every_steps=7, rank=rank, world_size=2)
        order = iter(expected)
        run.global_index = lambda batch, order=order: torch.tensor(next(order))  # type: ignore[method-assign,misc]
        parts.append(run.train(50))
    assert [a + b for a, b in zip(*parts, strict=True)] == expected


def test_streams_are_guided_in_pools() -> None:
    run = StreamRun(start_step=10)
    seen = run.train(10 + 5 * POOL)
    plain = next(iter(DataLoader(Stream(), batch_size=10 * BATCH)))
    assert [i for batch in seen[:10] for i in batch] == plain.tolist()
    assert same_kind(seen[10:]) > 0.6  # some items were not seen yet
    assert same_kind(seen[-POOL:]) > 0.85
    stream = iter(Stream())
    for begin in range(10, 50, POOL):
        expected = [next(stream) for _ in range(BATCH * (begin if begin == 10 else 0))]
        expected = [next(stream) for _ in range(BATCH * POOL)]
        assert sorted(i for batch in seen[begin : begin + POOL] for i in batch) == sorted(expected)


def test_improbable_neighbours_only_stay_in_a_group() -> None:
    def probability(first: Tensor, second: Tensor) -> Tensor:
        return ((first // 10) % 2 == (second // 10) % 2).double()

    run = Run(max_probability=0.5, probability=probability, group=2)
    run.train(2 * PER_EPOCH)
    slots = group_starts(BATCH, 0.4, 2)[:, None] + np.arange(2)
    pairs = np.array(run.train(PER_EPOCH))[:, slots].reshape(-1, 2)
    together = run.clusters.ids.numpy()[pairs]
    pairs = pairs[together[:, 0] == together[:, 1]]
    assert len(pairs) > 50
    assert (pairs[:, 0] // 10 % 2 != pairs[:, 1] // 10 % 2).mean() > 0.9
    without = Run(max_probability=0.5, probability=lambda first, second: None, group=2)
    assert without.train(3 * PER_EPOCH) == Run(group=2).train(3 * PER_EPOCH)


def test_keeps_apart_against_a_loop() -> None:
    table = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    groups = np.random.default_rng(0).integers(0, 30, (50, 5))
    stays = keeps_apart(groups, lambda first, second: table[first, second], 0.6)
    for members, found in zip(groups.tolist(), stays.tolist(), strict=True):
        kept: list[int] = []
        for member, stayed in zip(members, found, strict=True):
            expected = all(table[earlier, member] <= 0.6 for earlier in kept)
            assert stayed == expected
            kept += [member] if expected else []


def test_items_that_share_a_key_are_kept_apart() -> None:
    keys = (np.arange(ITEMS) // 3 + 1)[:, None]
    asked: list[int] = []

    def make_keys() -> np.ndarray[Any, Any]:
        asked.append(1)
        return keys

    def conflicts(batches: list[list[int]]) -> int:
        return sum(len(batch) - len({index // 3 for index in batch}) for batch in batches)

    run = Run(exclude_keys=make_keys, refresh_every_steps=9)
    assert conflicts(run.train(PER_EPOCH)) > 0
    assert conflicts(run.train(PER_EPOCH)) <= 2  # the last segment holds few batches to choose from
    assert asked == [1]


def test_captions_as_items_are_looked_up_by_their_rows() -> None:
    run = Run()
    run.clusters = clusters(ITEMS // 2 + 1)
    run.guidance.clusters = run.clusters
    run.guidance.item_rows = np.arange(ITEMS) // 2
    run.global_index = lambda batch: batch.index // 2  # type: ignore[method-assign]
    run.train(2 * PER_EPOCH)
    batches = np.array(run.train(PER_EPOCH)) // 2
    assert same_kind(batches.tolist()) > 0.9
