"""A run that is killed again and again, at chosen points of its work, in processes that fork from a warm one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_runs import tiny_config, train

from mmcontrast.build import run as build_run
from mmcontrast.config import Config

OVERRIDES = (
    "negatives.rule=[duplicates, calibrated]",
    "negatives.start=0.2",
    "negatives.cluster={share: 0.25, start: 0.1, items_per_cluster: 12, correction: 0.5, refresh_every_steps: 3}",
    "training.epochs=4",
    "training.ema_decay=0.9",
    "training.log_every_steps=2",
    "training.checkpoint_every_steps=2",
    "training.keep_checkpoints=2",
    "evaluation.every_epochs=null",
    "evaluation.every_steps=5",
    "evaluation.inspect_negatives=0",
)
"""Everything that has a state is on: calibrator, clusters, plans within an epoch, dropout, moving average."""
MOST = {
    "forward": 5,
    "optimizer": 5,
    "state": 400,
    "fsync": 10,
    "replace": 5,
    "replaced": 5,
    "rotate": 6,
    "embedding": 3,
    "evaluated": 2,
    "save_model": 2,
    "rename": 4,
    "clusters": 3,
    "lines": 6,
    "alarm": 1000,
}
"""Kinds of points, and up to the how many-th of them is waited for; those of the clock are milliseconds."""


def config_of(folder: Path) -> Config:
    """The run."""
    return tiny_config(folder, *OVERRIDES)


@dataclass
class Count:
    """How often kills came at each kind of point."""

    kills: dict[str, int]
    finished: int = 0

    @property
    def total(self) -> int:
        return sum(self.kills.values())


def kill_and_resume(folder: Path, kills: int, seed: int, check: Callable[[Path], None], chains: int = 2) -> Count:
    """Kill the run so often, going on each time; whenever it finishes all the same, check it and start another.

    Args:
        folder: for the runs.
        kills: at least so many.
        seed: of the points.
        check: raises if a finished run is not what it should be.
        chains: of kills and resumptions, side by side.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcontrast.build", "mmcontrast.build.run", "mmcontrast.cli", "kills"])
    with ThreadPoolExecutor(chains) as pool:
        each = -(-kills // chains)
        places = [folder / f"chain-{number}" for number in range(chains)]
        parts = [pool.submit(_chain, context, place, each, seed + i, check) for i, place in enumerate(places)]
        counts = [part.result() for part in parts]
    return Count({kind: sum(one.kills[kind] for one in counts) for kind in MOST}, sum(one.finished for one in counts))


def _chain(context: Any, folder: Path, kills: int, seed: int, check: Callable[[Path], None]) -> Count:
    folder.mkdir()
    rng, count, kinds = random.Random(seed), Count(dict.fromkeys(MOST, 0)), list(MOST)
    run, turn = folder / "run-0", 0
    while True:
        if turn % len(kinds) == 0:
            rng.shuffle(kinds)
        kind = kinds[turn % len(kinds)] if count.total < kills else None
        turn += 1
        nth = rng.randint(1, MOST[kind]) if kind else 0
        process = context.Process(target=_train, args=(run, kind, nth, folder / "output.txt"))
        process.start()
        process.join(300)
        if process.exitcode in (-signal.SIGKILL, -signal.SIGALRM):
            assert kind is not None
            count.kills[kind] += 1
            continue
        if process.exitcode != 0:
            raise AssertionError(f"exit code {process.exitcode}: {(folder / 'output.txt').read_text()}")
        check(run)
        shutil.rmtree(run)
        count.finished += 1
        run = folder / f"run-{count.finished}"
        if count.total >= kills:
            return count


def _train(run: Path, kind: str | None, nth: int, output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    torch.set_num_threads(1)
    if kind == "alarm":
        signal.setitimer(signal.ITIMER_REAL, nth / 1000)  # nobody handles it: it ends the process like a kill
    elif kind is not None:
        _Trap(nth).set(kind)
    build_run.write_run_report = lambda *_: None  # seconds of drawing
    train(config_of(run), resume=(run / "config.yaml").exists())


class _Trap:
    """Ends the process at the n-th time that a function is called."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def snap(self) -> None:
        """Count, and die when it is time."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, *, before: Callable[..., Any] | None = None, after: bool = False) -> None:
        """Die before the function (having done `before`, which gets its arguments) or after it."""
        function = getattr(owner, name)

        def trapped(*args: Any, **kwargs: Any) -> Any:
            if before is not None and self.left == 1:
                before(*args)
            if not after:
                self.snap()
            result = function(*args, **kwargs)
            if after:
                self.snap()
            return result

        setattr(owner, name, trapped)

    def set(self, kind: str) -> None:
        """Lay the trap."""
        from mmcontrast.build.validation import Validation
        from mmcontrast.models import DualEncoder, saving
        from mmcontrast.negatives import clustering
        from mmcontrast.training import manifest
        from mmcontrast.training.lines import LineFile
        from mmcontrast.training.trainer import Trainer

        def half(self: Any, data: bytes) -> None:
            self.file.write(bytes(data)[: len(data) // 2])
            self.file.flush()

        def half_a_line(self: LineFile, data: bytes) -> None:
            with self.path.open("ab") as file:
                file.write(data[: len(data) // 2])

        def one_file(path: Path, **_: Any) -> None:
            for file in sorted(Path(path).rglob("*.pt"))[:1]:
                file.unlink()

        targets: dict[str, tuple[Any, str, dict[str, Any]]] = {
            "forward": (Trainer, "_backward", {}),
            "optimizer": (torch.optim.AdamW, "step", {"after": True}),
            "state": (manifest._Hashing, "write", {"before": half}),
            "fsync": (os, "fsync", {}),
            "replace": (os, "replace", {}),
            "replaced": (os, "replace", {"after": True}),
            "rotate": (shutil, "rmtree", {"before": one_file}),
            "embedding": (DualEncoder, "encode_image", {}),
            "evaluated": (Validation, "__call__", {"after": True}),
            "save_model": (saving, "_write", {"after": True}),
            "rename": (Path, "rename", {"after": True}),
            "clusters": (clustering, "spherical_kmeans", {"after": True}),
            "lines": (LineFile, "_write", {"before": half_a_line}),
        }
        owner, name, options = targets[kind]
        self.around(owner, name, **options)
