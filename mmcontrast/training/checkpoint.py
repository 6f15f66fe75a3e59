"""Checkpoints that are either whole or absent: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mmcontrast import distributed
from mmcontrast.errors import TrainingError

_PREFIX = "step-"


class Checkpointer:
    """Keeps the newest `keep` checkpoints of a run as `folder/step-00001200/`.

    `state.pt` holds what all ranks share, `rank-R.pt` what differs between them (random states). Both are read
    with `weights_only=True`: a checkpoint cannot run code.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, shared: dict[str, Any], own: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`; every rank calls this with the same `shared` state."""
        path = self.folder / f"{_PREFIX}{step:08d}"
        aside = self.folder / f".{path.name}.part"
        if distributed.rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write(aside / "state.pt", shared)
        distributed.barrier()
        _write(aside / f"rank-{distributed.rank()}.pt", own)
        distributed.barrier()
        if distributed.rank() == 0:
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
            _sync_folder(self.folder)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        distributed.barrier()
        return path

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.folder.glob(f"{_PREFIX}*"))

    def load(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The shared state and this rank's own."""
        try:
            shared = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            if shared.get("world_size", 1) != distributed.world_size():
                raise TrainingError(
                    f"checkpoint {path} was written by {shared['world_size']} processes: resume with as many"
                )
            own = torch.load(path / f"rank-{distributed.rank()}.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
            raise TrainingError(
                f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to resume from the one before"
            ) from error
        return shared, own


def _write(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself has to reach the disk
    finally:
        os.close(descriptor)


def rng_state() -> dict[str, Any]:
    """Torch's random states of this rank."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_rng_state(state: Mapping[str, Any]) -> None:
    """The inverse of `rng_state`."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
