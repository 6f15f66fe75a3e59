"""A run of seconds, trained once and looked at by many tests, and command lines in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from mmcontrast import build
from mmcontrast.config import Config, load_config

ROOT = Path(__file__).parents[1]
CLOCK = ("pairs_per_second", "seconds_per_step")
# Dropout and random augmentation are on: a resumed run has to repeat them too. 6 steps are an epoch, so that the
# checkpoints at 4, 8 and 16 lie within one.
TINY: dict[str, Any] = {
    "model": {
        "embed_dim": 16,
        "image": {
            "name": "resnet10t",
            "image_size": 32,
            "dropout": 0.1,
            "kwargs": {"channels": [8, 16, 16, 32], "stem_width": 8},
        },
        "text": {"context_length": 24, "dropout": 0.1, "kwargs": {"width": 32, "heads": 2, "layers": 1}},
        "tokenizer": {"vocab_size": 300},
    },
    "data": {
        "train": {"path": "synthetic://scenes", "rows": 120},
        "validation": {"path": "synthetic://scenes", "split": "validation", "rows": 40},
        "augmentation": "strong",
        "workers": 0,
    },
    "training": {
        "epochs": 3,
        "global_batch_size": 20,
        "log_every_steps": 3,
        "checkpoint_every_steps": 4,
        "keep_checkpoints": 10,
        "trackers": [],
    },
    "evaluation": {"inspect_negatives": 60},  # too few to fit a calibrator, which takes seconds
}
STEPS = 18


def tiny_config(output: Path, *overrides: str) -> Config:
    """The tiny run, into `output`."""
    return load_config({**TINY, "output": str(output)}, overrides)


def train(config: Config, **options: Any) -> build.Results:
    """`mmcontrast.train`, silently."""
    return build.train(config, console=Console(quiet=True), **options)


def metric_lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """Weights of the newest checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    weights: dict[str, torch.Tensor] = torch.load(newest / "state.pt", weights_only=True)["model"]
    return weights


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs that cannot be told apart but by the clock: log, weights bit for bit, scores."""
    assert metric_lines(one) == metric_lines(other)
    ours, theirs = last_weights(one), last_weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert json.loads((one / "results.json").read_text()) == json.loads((other / "results.json").read_text())


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Sums of two threads differ in the last bits from those of one: all runs that are compared take one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Folder of the tiny run, complete; tests must not change it."""
    return train(tiny_config(tmp_path_factory.mktemp("tiny") / "run")).run_dir


@dataclass(frozen=True)
class Finished:
    """What a command line left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line on stderr; fails where there are more, or a traceback."""
        assert "Traceback" not in self.stderr + self.stdout, self.stderr
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert re.fullmatch(r"error: \S.*", line)
        return line.removeprefix("error: ")


class CommandLines:
    """Runs `mmcontrast ...` in real processes that need not import torch each: they fork from one that did."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["mmcontrast.build", "mmcontrast.cli"])
        self.count = 0

    def __call__(self, *words: str | Path, cwd: Path | None = None, die: tuple[int, int] | None = None) -> Finished:
        """Run and wait.

        Args:
            words: of the command line, without `mmcontrast`.
            cwd: where to run it.
            die: (step, signal): the process sends itself that signal when it has begun that step of the training.
        """
        self.count += 1
        out, err = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        process = self.context.Process(
            target=_command_line, args=([str(word) for word in words], cwd or self.folder, out, err, die)
        )
        process.start()
        process.join(120)
        assert process.exitcode is not None, f"still running after two minutes: {words}"
        return Finished(process.exitcode, out.read_text(), err.read_text())


def _command_line(words: list[str], cwd: Path, out: Path, err: Path, die: tuple[int, int] | None) -> None:
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    os.chdir(cwd)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    torch.set_num_threads(1)
    if die:
        _die_at(*die)
    from mmcontrast.cli import app

    app(words, prog_name="mmcontrast")


def _die_at(step: int, number: int) -> None:
    from mmcontrast.training.trainer import Trainer

    whole_step = Trainer.step

    def fatal_step(self: Trainer, batch: Any) -> None:
        if self.progress.global_step == step - 1:
            os.killpg(0, number)  # as Ctrl-C and schedulers do: to the whole process group
        whole_step(self, batch)

    Trainer.step = fatal_step  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def mmcontrast_command(tmp_path_factory: pytest.TempPathFactory) -> CommandLines:
    """Command lines, each in a process of its own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first of them starts
    return CommandLines(tmp_path_factory.mktemp("commands"))
