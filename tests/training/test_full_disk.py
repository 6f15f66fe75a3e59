"""A disk that is full: the run goes on while an older checkpoint is there, says so, and fails where none would stay."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from test_trainer import TinyBatches, lines, make_trainer
from torch import nn

from mmcontrast.errors import CheckpointFailed, TrainingError, TrainingInterrupted
from mmcontrast.training import checkpoint
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.types import PairBatch


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps whose checkpoints do not find room for their shared state."""
    steps: list[int] = []
    write = checkpoint.write_state

    def limited(path: Path, state: dict[str, Any]) -> Any:
        if any(f"{step:08d}" in str(path) for step in steps) and path.name == "state.pt":
            path.write_bytes(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, state)

    monkeypatch.setattr(checkpoint, "write_state", limited)
    return steps


def test_the_run_goes_on_with_the_older_checkpoint(tmp_path: Path, full_at: list[int]) -> None:
    full_at += [8, 12]
    warnings: list[str] = []
    trainer = make_trainer(tmp_path)
    trainer.display.warn = warnings.append  # type: ignore[method-assign]
    assert trainer.fit().global_step == 12
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    assert [text.partition(":")[0] for text in warnings] == [
        "the checkpoint of step 8 cannot be written",
        "the checkpoint of step 12 cannot be written",
    ]
    assert "No space left on device; step-00000004 is kept, and the run goes on and tries again" in warnings[0]


def test_without_any_checkpoint_the_run_stops(tmp_path: Path, full_at: list[int]) -> None:
    full_at += [4]
    with pytest.raises(TrainingError, match=r"the first checkpoint cannot be written: .*No space left on device; make"):
        make_trainer(tmp_path).fit()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_signal_says_which_checkpoint_there_is(tmp_path: Path, full_at: list[int]) -> None:
    class Signalling(TinyBatches):
        def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
            for k, batch in enumerate(super().epoch(epoch, start_batch)):
                if (epoch, k) == (1, 1):
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    full_at += [7]
    with pytest.raises(TrainingInterrupted, match=r"after step 7; the last checkpoint is .*step-00000004, go on with"):
        make_trainer(tmp_path, batches=Signalling()).fit()


def test_lines_that_found_no_room_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    trainer = make_trainer(tmp_path)
    trainer.display.warn = warnings.append  # type: ignore[method-assign]
    write = trainer.metrics.file._write

    def limited(data: bytes) -> None:
        if b'"global_step": 6,' in data and b'"global_step": 9,' not in data:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(data)

    monkeypatch.setattr(trainer.metrics.file, "_write", limited)
    trainer.fit()
    assert [line["global_step"] for line in lines(tmp_path)] == [3, 6, 9, 12]
    assert warnings == [
        f"{tmp_path / 'metrics.jsonl'}: No space left on device; the lines are kept in memory and tried again with the "
        "next ones"
    ]


def test_a_best_model_that_found_no_room_does_not_count(tmp_path: Path) -> None:
    scores, saved = iter([0.1, 0.5, 0.4]), []
    trainer = make_trainer(tmp_path, evaluate_every=4, evaluator=lambda _: {"retrieval.mean_recall": next(scores)})

    def save_best(_: nn.Module) -> None:
        saved.append(trainer.progress.global_step)
        if trainer.progress.global_step == 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    warnings: list[str] = []
    trainer.display.warn = warnings.append  # type: ignore[method-assign]
    trainer.save_best = save_best
    progress = trainer.fit()
    assert saved == [4, 8, 12]
    assert (progress.best_step, progress.best_metric) == (12, 0.4)
    assert len(warnings) == 1
    assert warnings[0].startswith("the best model so far, of step 8, cannot be saved: No space left on device")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["mean_recall"] == 0.4


def _save_twice(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    checkpointer = Checkpointer(folder / "checkpoints")
    checkpointer.save(1, {"world_size": 2}, {"rank": rank})
    if rank == 1:  # the other one does not see why it should stop
        checkpoint.write_state = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    try:
        checkpointer.save(2, {"world_size": 2}, {"rank": rank})
    except CheckpointFailed as error:
        (folder / f"said-{rank}").write_text(str(error))
    shared, own = checkpointer.load(checkpointer.newest()[0] or folder)
    assert (shared, own) == ({"world_size": 2}, [{"rank": rank}])
    dist.destroy_process_group()


@pytest.mark.timeout(120)
def test_where_one_process_finds_no_room_all_go_on_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_save_twice, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    said = [(tmp_path / f"said-{rank}").read_text() for rank in range(2)]
    assert said == [f"{tmp_path}/checkpoints: No space left on device"] * 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
