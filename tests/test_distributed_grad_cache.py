"""Chunks on two real processes: one exchange of gradients a step, and the gradient of one process."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mmcontrast import distributed
from mmcontrast.training.grad_cache import GradCache
from mmcontrast.training.objective import ContrastiveObjective, ObjectiveOutput
from mmcontrast.types import Features, PairBatch

PAIRS, STEPS = 16, 3
CASES: list[tuple[int | None, bool, bool]] = [
    (None, False, False),
    (3, False, False),
    (3, True, False),
    (3, False, True),
]
"""Pairs at a time, whether the image tower is frozen, and whether there is batch norm."""


class Encoder(nn.Module):
    def __init__(self, frozen: bool, norm: bool) -> None:
        super().__init__()
        self.frozen = frozen
        self.tower = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8) if norm else nn.LayerNorm(8), nn.GELU())
        self.head = nn.Linear(8, 6)
        self.text = nn.Embedding(20, 6)
        self.logit_scale = nn.Parameter(torch.tensor([1.0]))
        self.logit_bias = nn.Parameter(torch.tensor([-1.0]))
        self.tower.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        self.tower.train(mode and not self.frozen)
        return self

    def forward(self, image: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Features:
        return Features(
            F.normalize(self.head(self.tower(image.flatten(1).float())), dim=1),
            F.normalize(self.text(input_ids).mean(dim=1), dim=1),
            self.logit_scale.exp().squeeze(),
            self.logit_bias.squeeze(),
        )


def make_batch(rows: slice, seed: int) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 20, (PAIRS, 3), generator=generator)
    image = torch.randint(0, 5, (PAIRS, 3, 2, 2), generator=generator).to(torch.uint8)
    key, nothing = torch.arange(PAIRS) + 1, torch.zeros(PAIRS, dtype=torch.long)
    key[12] = key[2]  # a known positive across the ranks' border
    tensors = (image, ids, torch.ones_like(ids), torch.arange(PAIRS), key, key[:, None], nothing, nothing)
    return PairBatch(*(tensor[rows] for tensor in tensors))


def steps(accelerator: Accelerator, model: nn.Module, micro: int | None, rows: slice) -> list[dict[str, Any]]:
    """Loss and gradients of some steps, each with its weights moved, as the trainer does it."""
    bare, results = accelerator.unwrap_model(model), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for seed in range(STEPS):
        batch = make_batch(rows, seed)

        def objective(features: Features, batch: PairBatch = batch) -> ObjectiveOutput:
            return ContrastiveObjective("sigmoid")(features, batch)

        output = GradCache(model, accelerator, micro or len(batch)).backward(batch, objective)
        mean = distributed.all_gather(output.loss.detach()[None]).mean()
        gradients = {name: p.grad.clone() for name, p in bare.named_parameters() if p.grad is not None}
        results.append({"loss": mean, "buffers": {k: v.clone() for k, v in bare.named_buffers()}, **gradients})
        optimizer.step()
        optimizer.zero_grad()
    return results


def of_rank(rank: int, case: tuple[int | None, bool, bool], exchanges: list[int]) -> list[dict[str, Any]]:
    micro, *rest = case
    torch.manual_seed(3)
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(Encoder(*rest))
    assert isinstance(model, DistributedDataParallel)
    exchanges.append(0)

    def hook(group, bucket):  # DDP refuses annotations that are strings, as all of this file are
        exchanges[-1] += 1
        return allreduce_hook(group, bucket)

    model.register_comm_hook(dist.group.WORLD, hook)
    half = PAIRS // 2
    return steps(accelerator, model, micro, slice(rank * half, rank * half + half))


def worker(rank: int, folder: str) -> None:
    # What Accelerate asks for; the address is not used, since the group is there already.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "CUDA_VISIBLE_DEVICES": ""}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    exchanges: list[int] = []
    results = [of_rank(rank, case, exchanges) for case in CASES]
    torch.save((results, exchanges), f"{folder}/rank-{rank}.pt")
    gc.collect()  # a DDP model that outlives its process group aborts the process now and then
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[list[dict[str, Any]]], list[int]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


def assert_same(actual: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in actual.keys() - {"buffers"}:
        torch.testing.assert_close(actual[name], expected[name], **tolerance, msg=name)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_two_processes_in_chunks_equal_one_in_whole(ranks: Any, number: int) -> None:
    AcceleratorState._reset_state()
    torch.manual_seed(3)
    expected = steps(Accelerator(cpu=True), Encoder(*CASES[number][1:]), None, slice(0, PAIRS))
    for results, _ in ranks:
        for actual, whole in zip(results[number], expected, strict=True):
            assert "logit_scale" in actual
            assert_same(actual, whole, rtol=1e-5, atol=1e-6)


def test_gradients_are_exchanged_once_a_step(ranks: Any) -> None:
    for _, exchanges in ranks:
        assert exchanges == [STEPS] * len(CASES)  # these few parameters are one bucket


def test_ranks_agree_on_gradients_and_on_the_statistics_of_batch_norm(ranks: Any) -> None:
    for one, other in zip(ranks[0][0][3], ranks[1][0][3], strict=True):
        assert_same(one, other, rtol=0, atol=0)
        assert one["buffers"].keys() == other["buffers"].keys()
        assert one["buffers"]
        for name, value in one["buffers"].items():
            assert torch.equal(value, other["buffers"][name]), name
    counts = [step["buffers"]["tower.1.num_batches_tracked"].item() for step in ranks[0][0][3]]
    assert counts == [3, 6, 9]  # chunks of 3, 3 and 2 pairs, each counted once
