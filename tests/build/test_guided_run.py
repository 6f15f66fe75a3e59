"""Guided batches made from a config, on real pictures; and the order that two processes agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_runs import tiny_config

from mmcontrast.build import parts
from mmcontrast.build.batches import MapBatches, StreamBatches, make_batches
from mmcontrast.build.guidance import Guidance
from mmcontrast.data.exclusion import source_keys
from mmcontrast.data.keys import caption_key, text_key
from mmcontrast.negatives.clustering import Clusters

STREAMING = (
    "data.streaming=true",
    "data.shuffle_buffer=40",
    "training.max_steps=40",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=20",
)


def batches_of(tmp_path: Path, *overrides: str) -> tuple[MapBatches | StreamBatches, Clusters]:
    config = tiny_config(tmp_path / "run", "negatives.cluster.share=0.4", *overrides)
    source = parts.open_pair_stream(config) if config.data.streaming else parts.open_pairs(config, config.data.train)
    model = parts.make_model(config, source, tmp_path / "tokenizer")
    clusters = Clusters(120, 8, items_per_cluster=12, seed=0, device="cpu")
    return make_batches(config, source, model, clusters=clusters, start_step=4), clusters


def drive(batches: MapBatches | StreamBatches, clusters: Clusters, epochs: int, steps: int) -> list[list[int]]:
    """Indices of each batch; items of the same remainder by 10 look alike."""
    kinds, seen = torch.randn(10, 8, generator=torch.Generator().manual_seed(0)), []
    for epoch in range(epochs):
        for batch in batches.epoch(epoch, 0):
            features = torch.nn.functional.normalize(kinds[batch.index % 10], dim=1)
            clusters.observe(batch.index, features, features)
            seen.append(batch.index.tolist())
            if len(seen) == (epoch + 1) * steps:
                break
    return seen


@pytest.mark.parametrize("sampling", ["random", "all"])
def test_batches_of_a_config(tmp_path: Path, sampling: str) -> None:
    batches, clusters = batches_of(tmp_path, f"data.caption_sampling={sampling}", "training.global_batch_size=20")
    assert isinstance(batches, MapBatches)
    steps = len(batches.sampler)
    seen = drive(batches, clusters, 2, steps)
    dataset: Any = batches.loader.dataset
    times = [len(dataset.source.captions(i)) if sampling == "all" else 1 for i in range(120)]
    for epoch in range(2):
        counts = np.bincount([i for batch in seen[epoch * steps : (epoch + 1) * steps] for i in batch], minlength=120)
        assert (counts <= times).all()
    assert batches.diagnostics["clusters"] == 10
    if sampling == "all":  # a picture's captions lie in different batches as soon as keys are looked at
        again = [len(batch) - len(set(batch)) for batch in seen]
        assert sum(again[steps:]) < sum(again[:steps]) / 4


def test_a_stream_of_a_config(tmp_path: Path) -> None:
    batches, clusters = batches_of(tmp_path, *STREAMING)
    assert isinstance(batches, StreamBatches)
    seen = drive(batches, clusters, 1, 24)
    assert batches.diagnostics["clusters"] == 10
    assert len(seen) == 24
    counts = np.bincount([i % 120 for batch in seen[:4] for i in batch], minlength=120)
    assert counts.max() == 1


def test_keys_of_a_source_are_those_that_recur(tmp_path: Path) -> None:
    class Source:
        texts = (["A dog.", "a cat"], ["a dog", "a dog !"], ["a bird"], ["a fish"])
        groups = (None, None, "g", "g")

        def __len__(self) -> int:
            return 4

        def captions(self, i: int) -> list[str]:
            return self.texts[i]

        def group(self, i: int) -> str | None:
            return self.groups[i]

    source: Any = Source()
    dog, group = caption_key("a dog"), text_key("g")
    assert source_keys(source).tolist() == [[dog], [dog], [group], [group]]
    keys = source_keys(source, np.array([0, 0, 1]))
    assert keys.shape == (3, 2)
    assert keys[0, 0] == keys[1, 0] != keys[2, 0]
    source.texts, source.groups = (["x"], ["y"], ["z"], ["w"]), (None,) * 4
    assert source_keys(source).shape == (4, 0)


def _order_of_a_rank(rank: int, file: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    clusters = Clusters(60, 4, items_per_cluster=10, seed=0, device="cpu")
    features = torch.nn.functional.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    clusters.observe(torch.arange(60), features, features)
    guidance = Guidance(clusters, share=0.5, group=3, seed=0)
    assert guidance.update(0)
    clusters.ids[rank] = rank  # as if a rank had computed something else
    results[rank] = [guidance.order(60, 12, 0).tolist(), guidance.order(60, 12, 1, np.arange(20, 50)).tolist()]
    dist.destroy_process_group()


def test_ranks_get_one_order_even_if_their_clusters_differ(tmp_path: Path) -> None:
    with mp.Manager() as manager:  # type: ignore[attr-defined]
        results = manager.dict()
        mp.spawn(_order_of_a_rank, (str(tmp_path / "rendezvous"), results), nprocs=2)  # type: ignore[attr-defined]
        assert results[0] == results[1]
        assert sorted(results[0][0]) == list(range(60))
        assert sorted(results[0][1]) == list(range(20, 50))
