"""Two and four real processes give the loss and the gradients of one."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mmcontrast import distributed
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.signals import LINKED_SIGNALS, SIGNALS
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.training.objective import ContrastiveObjective, LossName
from mmcontrast.types import NO_KEY, Features, PairBatch

CASES: list[tuple[Any, ...]] = [
    ("info_nce", RuleSettings(())),
    ("info_nce", RuleSettings(("duplicates",))),
    ("info_nce", RuleSettings(("duplicates",), known_positives="positives")),
    ("sigmoid", RuleSettings(("duplicates",))),
    ("sigmoid", RuleSettings(("duplicates",), known_positives="positives")),
    ("info_nce", RuleSettings(("duplicates", "calibrated"))),
    ("info_nce", RuleSettings(("duplicates", "calibrated"), known_positives="positives", soft_positives=0.3)),
    ("info_nce", RuleSettings(("text_similarity", "margin", "quantile"))),
    ("info_nce", RuleSettings(("duplicates", "hardness"))),
    ("info_nce", RuleSettings(("oracle",), known_positives="positives")),
    ("sigmoid", RuleSettings(("duplicates", "calibrated", "oracle"))),
    ("info_nce", RuleSettings(("calibrated",), soft_positives=0.3), True),
]
"""Loss and rules, and whether the calibrator has linked evidence."""


class TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(6, 4)
        self.text = nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.tensor([1.0]))
        self.logit_bias = nn.Parameter(torch.tensor([-1.0]))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> Features:
        return Features(
            F.normalize(self.image(image), dim=1),
            F.normalize(self.text(text), dim=1),
            self.logit_scale.exp().squeeze(),
            self.logit_bias.squeeze(),
        )


def batch_of(rows: slice, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, PairBatch]:
    """Inputs of the towers and of the siblings' tower, and the batch, for some rows of a global batch of 8."""
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)
    sibling = text[[1, 6]] + 0.1 * torch.randn(2, 5, generator=generator)
    caption_key = torch.tensor([1, 2, 3, 1, 5, 6, 2, 8])  # duplicates across the ranks' border
    # ranks with different numbers of caption columns
    caption_keys = torch.stack([caption_key, torch.tensor([NO_KEY] * 4 + [1, NO_KEY, NO_KEY, NO_KEY])], dim=1)
    if rows.stop <= 4:
        caption_keys = caption_keys[:, :1]
    group = torch.tensor([NO_KEY, 9, NO_KEY, NO_KEY, NO_KEY, 9, NO_KEY, NO_KEY])
    label = torch.tensor([0, 1, 0, -1, 1, -1, 2, 3])
    # ranks whose captions are of different lengths
    ids = torch.randint(0, 30, (8, 5), generator=generator)
    empty = torch.zeros(8, dtype=torch.long)
    ours = [n for n, row in enumerate((1, 6)) if rows.start <= row < rows.stop]
    places = torch.tensor([(1, 6)[n] - rows.start for n in ours] or [-1])
    ours = ours or [0]  # all ranks bring along as many; one that is at row -1 counts for nothing
    batch = PairBatch(
        empty[rows],
        ids[rows],
        torch.ones(8, 5, dtype=torch.long)[rows],
        torch.arange(8)[rows],
        caption_key[rows],
        caption_keys[rows],
        group[rows],
        label[rows],
        sibling_ids=ids[[1, 6]][ours],
        sibling_mask=torch.ones(len(ours), 5, dtype=torch.long),
        sibling_rows=places,
    )
    return image[rows], text[rows], sibling[ours], batch


def objective_of(loss: LossName, settings: RuleSettings, linked: bool = False) -> ContrastiveObjective:
    """With everything that the rules need, and a calibrator that has learnt in advance from the same pairs."""
    words = WordStatistics(30)
    calibrator, width = new_calibrator(linked, seed=0), len(LINKED_SIGNALS if linked else SIGNALS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        calibrator.observe(
            torch.rand(20, width, generator=generator) + 0.5, torch.randn(200, width, generator=generator)
        )
        calibrator.step()
    objective = ContrastiveObjective(loss, Weighting(settings, calibrator=calibrator, words=words, seed=0))
    objective.progress = 0.5
    return objective


def loss_and_gradients(case: tuple[Any, ...], model: nn.Module, rows: slice) -> tuple[float, list[torch.Tensor]]:
    """Of the third of three batches: what the first two taught has to agree as well."""
    objective = objective_of(*case)
    for seed in range(3):
        image, text, sibling, batch = batch_of(rows, seed)
        model.zero_grad()
        sibling_text = F.normalize(sibling @ torch.ones(5, 4), dim=1)
        loss = objective(model(image, text), batch, sibling_text).loss
        loss.backward()
    mean = distributed.all_gather(loss.detach()[None]).mean().item()
    return mean, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def build() -> TinyEncoder:
    torch.manual_seed(3)
    return TinyEncoder()


def of_rank(rank: int, ranks: int, case: tuple[Any, ...]) -> tuple[float, list[torch.Tensor]]:
    model = DistributedDataParallel(build(), find_unused_parameters=True)
    share = 8 // ranks
    return loss_and_gradients(case, model, slice(rank * share, (rank + 1) * share))


def worker(rank: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    assert distributed.world_size() == ranks
    results = [of_rank(rank, ranks, case) for case in CASES]
    assert distributed.gather_lists([rank]) == list(range(ranks))
    assert distributed.any_rank(rank == 1, torch.device("cpu"))
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    gc.collect()  # a DDP model that outlives its process group aborts the process now and then
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [2, 4])
def test_several_processes_equal_one(ranks: int, tmp_path: Path) -> None:
    mp.spawn(worker, args=(ranks, str(tmp_path)), nprocs=ranks)
    for case, (loss, gradients) in zip(CASES, torch.load(tmp_path / "results.pt"), strict=True):
        expected_loss, expected = loss_and_gradients(case, build(), slice(0, 8))
        assert loss == pytest.approx(expected_loss, rel=1e-6), case
        for actual, gradient in itertools.zip_longest(gradients, expected):
            torch.testing.assert_close(actual, gradient, rtol=1e-5, atol=1e-7)


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.all_gather_with_grad(x) is x
    assert distributed.all_gather_padded(x, 0) is x
    assert distributed.gather_lists(["a"]) == ["a"]
    assert not distributed.any_rank(False, torch.device("cpu"))
