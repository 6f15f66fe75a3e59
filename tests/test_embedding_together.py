"""Real processes that share the batches of an evaluation out: all get what one process gets, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from evaluation_fakes import FakeEncoder, FakeSource

from mmcontrast import distributed
from mmcontrast.data import KeptPictures
from mmcontrast.embedding import embed_images, embed_texts
from mmcontrast.errors import DataError

CODES = [4, None, 2, 9, None, 0, 7, 7, 12, 3, None]
CAPTIONS = [f"{'long ' * (i % 4)}{i % 13}" for i in range(30)]
CASES = [(1, 2), (3, 4), (4, 7), (20, 100)]
"""Batch sizes of pictures and captions; in the last one some ranks have no batch at all."""


def embedded(images: int, texts: int, together: bool) -> list[Any]:
    encoder, source, kept = FakeEncoder(), FakeSource(CODES), KeptPictures(10**6)
    rounds = [
        embed_images(encoder, source, batch_size=images, kept=kept, together=together) for _ in range(2)
    ]  # the second from memory
    features = embed_texts(encoder, CAPTIONS, batch_size=texts, together=together)
    rows = [[row.row for row in found.bad_rows] for found in rounds]
    return [features, *(part for found in rounds for part in found[:2]), torch.tensor(rows)]


def worker(rank: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    assert distributed.world_size() == ranks
    torch.save([embedded(*case, together=True) for case in CASES], f"{folder}/{rank}.pt")
    with pytest.raises(DataError, match="none of its 3 pictures could be decoded"):
        embed_images(FakeEncoder(), FakeSource([None] * 3), batch_size=1, together=True)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_get_what_one_process_gets(ranks: int, tmp_path: Path) -> None:
    mp.spawn(worker, args=(ranks, str(tmp_path)), nprocs=ranks)
    for rank in range(ranks):
        for case, found in zip(CASES, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            for ours, alone in zip(found, embedded(*case, together=False), strict=True):
                assert torch.equal(ours, alone), case


def test_the_work_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor, how: tensor)
    monkeypatch.setattr(distributed, "gather_lists", lambda values: values)
    encoder = FakeEncoder()
    embed_images(encoder, FakeSource(list(range(9))), batch_size=2, together=True)
    assert encoder.image_batches == [2, 2]  # of five batches the second and the fourth
    embed_texts(encoder, ["1", "22", "333"], batch_size=1, together=True)
    assert encoder.text_batches == [["22"]]
