"""A signal to one of two real processes stops both at the same step, within a few steps, with a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from test_trainer import TinyBatches, make_trainer

from mmcontrast import distributed
from mmcontrast.errors import TrainingInterrupted
from mmcontrast.training.asking import ASK_RANKS_EVERY
from mmcontrast.types import PairBatch


class Signalling(TinyBatches):
    """Rank 1 is told to stop while it makes ready for step `at` (from 0)."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.made = at, 0

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        for batch in super().epoch(epoch, start_batch):
            if distributed.rank() == 1 and self.made == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            self.made += 1
            yield batch


def worker(rank: int, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    trainer = make_trainer(Path(folder), batches=Signalling(at=6), steps=40, checkpoint_every=30)
    assert distributed.world_size() == 2
    found: dict[str, int | None] = {"code": None}
    try:
        trainer.fit()
    except TrainingInterrupted as error:
        found["code"] = error.exit_code
    found["step"] = trainer.progress.global_step
    (Path(folder) / f"found-{rank}.json").write_text(json.dumps(found))
    trainer.accelerator.end_training()


@pytest.mark.timeout(120)
def test_both_processes_stop_together(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(worker, args=(str(tmp_path), port), nprocs=2)
    found = [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    # Told in its 7th step; the ranks ask each other after steps 5, 10, ...
    assert found == [{"code": 143, "step": 2 * ASK_RANKS_EVERY}] * 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{2 * ASK_RANKS_EVERY:08d}"]
