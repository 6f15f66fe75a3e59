"""What a checkpoint holds, and how a run goes on from it: bit for bit with as many processes, in order with others.

A global batch is the same rows in the same order, with the same augmentation and captions, for any number of
processes: they come from (seed, epoch, row) alone. Weights, optimiser, clusters and calibrator are of all ranks
together. Of one rank are only torch's random states (dropout): with another number of processes they are drawn anew,
from the seed and the step. Batch norm sees the share of one process.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from mmcontrast import distributed
from mmcontrast.errors import CheckpointFailed, TrainingError
from mmcontrast.training.checkpoint import rng_state, set_rng_state
from mmcontrast.training.noting import read_steps
from mmcontrast.training.optim import lay_out_state
from mmcontrast.training.schedule import Progress
from mmcontrast.training.sharding import load_whole_state, whole_state
from mmcontrast.types import BadRow

if TYPE_CHECKING:
    from mmcontrast.training.trainer import Trainer


def save(trainer: Trainer) -> bool:
    """Save everything that a resumed run needs to go on as if nothing had happened; all ranks together.

    Returns:
        Whether it was written. Where it was not, an older one is there, the user was told, and the run goes on: a disk
        that is full now may have room at the next one.

    Raises:
        TrainingError: it was not written, and there is none yet.
    """
    read_steps(trainer, all_steps=True)
    step = trainer.progress.global_step
    trainer.questions.saved()
    try:
        trainer.checkpointer.save(step, *state_of(trainer))
    except CheckpointFailed as error:
        last = trainer.checkpointer.last
        if last is None:
            raise TrainingError(
                f"the first checkpoint cannot be written: {error}; make room or take another --output"
            ) from error
        trainer.display.warn(
            f"the checkpoint of step {step} cannot be written: {error}; {last.name} is kept, and the run goes on and "
            "tries again at the next"
        )
        return False
    return True


def load(trainer: Trainer) -> bool:
    """Go back to the newest whole checkpoint, saying so if newer ones are damaged; False where there is none."""
    path, remarks = trainer.checkpointer.newest()
    for remark in remarks:
        trainer.display.warn(remark)
    if path is None:
        return False
    restore(trainer, *trainer.checkpointer.load(path))
    return True


def state_of(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all ranks share, and what this one has for itself."""
    optimizer, shards = trainer.optimizer, trainer.shards
    shared: dict[str, Any] = {
        "progress": asdict(trainer.progress),
        "world_size": distributed.world_size(),
        "model": whole_state(trainer.accelerator.unwrap_model(trainer.model)),
        "optimizer": optimizer.state_dict() if shards is None else shards.whole_optimizer(optimizer),
        "scheduler": trainer.scheduler.state_dict(),
        "objective": trainer.objective.state_dict(),
        "batches": trainer.batches.state_dict(),
        "guard": trainer.guard.state_dict(),
    }
    if trainer.average:
        shared["average"] = {"model": whole_state(trainer.average.model), "steps": trainer.average.steps}
    if trainer.accelerator.scaler is not None:
        shared["scaler"] = trainer.accelerator.scaler.state_dict()
    own: dict[str, Any] = {
        "rng": rng_state(),
        "window": trainer.window.state_dict(),
        "bad_rows": [asdict(row) for row in trainer.new_bad_rows],
    }
    return shared, own


def restore(trainer: Trainer, shared: dict[str, Any], own: Sequence[dict[str, Any]]) -> None:
    """The inverse of `state_of`.

    Args:
        trainer: of the same config.
        shared: of all ranks.
        own: the state of this rank, or of all that there were if that was another number.

    Raises:
        TrainingError: there are more or fewer processes than before, and the data does not allow that.
    """
    then, now = shared["world_size"], distributed.world_size()
    if then != now and not trainer.batches.elastic:
        raise TrainingError(
            f"the checkpoint was written by {then} process{'es' if then > 1 else ''} and this run has {now}: each puts "
            "its own batches of a stream together anew (negatives.cluster.share), so it goes on with as many only"
        )
    trainer.progress = Progress(**shared["progress"])
    load_whole_state(trainer.accelerator.unwrap_model(trainer.model), shared["model"])
    if trainer.shards is None:
        trainer.optimizer.load_state_dict(shared["optimizer"])
    else:
        trainer.shards.load_optimizer(trainer.optimizer, shared["optimizer"])
    lay_out_state(trainer.optimizer)
    trainer.scheduler.load_state_dict(shared["scheduler"])
    trainer.objective.load_state_dict(shared["objective"])
    trainer.batches.load_state_dict(shared["batches"])
    trainer.guard.load_state_dict(shared["guard"])
    if trainer.average:
        load_whole_state(trainer.average.model, shared["average"]["model"])
        trainer.average.steps = shared["average"]["steps"]
    if trainer.accelerator.scaler is not None and "scaler" in shared:
        trainer.accelerator.scaler.load_state_dict(shared["scaler"])
    trainer.window.load_state_dict([state["window"] for state in own], trainer.accelerator.device)
    if then == now:
        set_rng_state(own[0]["rng"])
        rows = own[0]["bad_rows"]
    else:
        torch.manual_seed(_fresh_seed(torch.initial_seed(), trainer.progress.global_step))
        rows = [row for state in own for row in state["bad_rows"]] if distributed.rank() == 0 else []
    trainer.new_bad_rows = [BadRow(**row) for row in rows]
    trainer.metrics.rewind(trainer.progress.global_step)
    trainer.odd_steps.rewind(trainer.progress.global_step)


def _fresh_seed(seed: int, step: int) -> int:
    """A 63-bit seed for a rank (whose seed it is) that goes on at a step."""
    packed = struct.pack("<QQ", seed & (2**64 - 1), step)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1
