"""Checkpoints that are either whole or absent: written aside, flushed to disk, then renamed; verified when loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from mmcontrast import distributed
from mmcontrast.errors import CheckpointFailed, TrainingError
from mmcontrast.training.manifest import FileRecord, damage, write_manifest, write_state

_PREFIX = "step-"
# What torch and its unpickler stumble over in a file that was made up.
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, LookupError, TypeError, AttributeError)
_DAMAGED = "damaged-"


class Checkpointer:
    """Keeps the newest `keep` checkpoints of a run as `folder/step-00001200/`.

    `state.pt` holds what all ranks share, `rank-R.pt` what differs between them (random states), `manifest.json` the
    checksums of both. States are read with `weights_only=True`: a checkpoint cannot run code.

    Attributes:
        last: the newest one that is known to be whole; the same on all ranks.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.last: Path | None = None

    def save(self, step: int, shared: dict[str, Any], own: dict[str, Any]) -> Path:
        """Write the checkpoint of `step`; every rank calls this with the same `shared` state.

        Raises:
            CheckpointFailed: on all ranks, if any of them could not write. Older checkpoints are as they were, and
                nothing is left of this one.
        """
        path = self.folder / f"{_PREFIX}{step:08d}"
        aside = self.folder / f".{path.name}.part"
        rank = distributed.rank()
        records = self._together(aside, lambda: self._begin(aside, shared) if rank == 0 else {})
        records |= self._together(aside, lambda: {f"rank-{rank}.pt": write_state(aside / f"rank-{rank}.pt", own)})
        self._together(aside, lambda: self._finish(aside, path, records) if rank == 0 else {})
        self.last = path
        return path

    def all(self) -> list[Path]:
        """All checkpoints, oldest first; `newest` tells whether they are whole."""
        return sorted(self.folder.glob(f"{_PREFIX}*"))

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint or None, and a line for each damaged one that is newer; the same on all ranks.

        Damaged ones are put aside as `damaged-step-...` until the next checkpoint is written.

        Raises:
            TrainingError: there are checkpoints, and all are damaged.
        """
        found = distributed.gather_lists([self._look()] if distributed.rank() == 0 else [])
        name, problems = found[0]
        if name is None and problems:
            raise TrainingError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(problems)}): pass --overwrite to start anew"
            )
        self.last = None if name is None else self.folder / name
        return self.last, [f"checkpoint {problem}; going on from {name} before it" for problem in problems]

    def load(self, path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The shared state, and the own ones: of this rank alone where there are as many as then, else of all."""
        try:
            shared = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            then = int(shared.get("world_size", 1))
            ranks = [distributed.rank()] if then == distributed.world_size() else range(then)
            own = [torch.load(path / f"rank-{r}.pt", map_location="cpu", weights_only=True) for r in ranks]
        except _UNREADABLE as error:
            raise TrainingError(
                f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to resume from the one before"
            ) from error
        return shared, own

    def _together(self, aside: Path, work: Callable[[], dict[str, FileRecord]]) -> dict[str, FileRecord]:
        """Do one's part, wait for the others, and fail if any failed: else the rest would wait for it for ever."""
        records: dict[str, FileRecord] = {}
        problem: str | None = None
        try:
            records = work()
        except OSError as error:
            problem = f"{error.filename or self.folder}: {error.strerror or error}"
        except RuntimeError as error:  # torch's writer, when the file below it fails
            problem = f"{self.folder}: {_cause(error)}"
        parts = distributed.gather_lists([(records, problem)])
        problems = [text for _, text in parts if text is not None]
        if problems:
            if distributed.rank() == 0:
                shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointFailed(problems[0])
        return {name: record for part, _ in parts for name, record in part.items()}

    def _begin(self, aside: Path, shared: dict[str, Any]) -> dict[str, FileRecord]:
        self._sweep()
        aside.mkdir(parents=True)
        return {"state.pt": write_state(aside / "state.pt", shared)}

    def _finish(self, aside: Path, path: Path, records: dict[str, FileRecord]) -> dict[str, FileRecord]:
        write_manifest(aside, records)
        _sync_folder(aside)
        _discard(path)  # one of the same step: damaged, or of a run that went on from an older one
        os.replace(aside, path)
        _sync_folder(self.folder)
        for damaged in self.folder.glob(f"{_DAMAGED}*"):
            shutil.rmtree(damaged, ignore_errors=True)
        self._rotate()
        return {}

    def _rotate(self) -> None:
        """Delete checkpoints that have `keep` whole ones after them."""
        whole = [old for old in self.all() if damage(old, thorough=False) is None]
        for old in self.all():
            if sum(one > old for one in whole) >= self.keep:
                _discard(old)

    def _sweep(self) -> None:
        """Delete what a run that was killed left half written or half deleted."""
        for leftover in self.folder.glob(f".{_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _look(self) -> tuple[str | None, list[str]]:
        problems: dict[Path, str] = {}
        self._sweep()
        for path in reversed(self.all()):
            problem = damage(path)
            if problem is None:
                for damaged in problems:
                    with suppress(OSError):  # a folder that cannot be written fails later, with a line of its own
                        os.replace(damaged, damaged.with_name(f"{_DAMAGED}{damaged.name}"))
                with suppress(OSError):
                    self._rotate()  # it may have been killed before it came to that
                return path.name, [f"{damaged.name} is damaged ({text})" for damaged, text in problems.items()]
            problems[path] = problem
        return None, [f"{path.name}: {text}" for path, text in problems.items()]


def _discard(path: Path) -> None:
    """Delete a checkpoint; a kill meanwhile leaves nothing behind that looks like one."""
    if path.exists():
        gone = path.with_name(f".{path.name}.old")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _cause(error: BaseException) -> str:
    """The operating system's words for what torch wraps into an error of its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return " ".join(str(error).split())


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
