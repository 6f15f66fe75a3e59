"""Whole runs by several processes on this machine, and the rows that each of them had."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_runs import train

from mmcontrast import distributed
from mmcontrast.config import Config
from mmcontrast.training.trainer import Trainer


def run_rank(rank: int, ranks: int, port: int, folder: Path, config: Config, resume: bool) -> None:
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    file = os.open(folder / f"output-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    torch.set_num_threads(1)
    note_rows(folder / f"rows-{'second' if resume else 'first'}-{ranks}-{rank}.jsonl", ranks)
    train(config, resume=resume)


def note_rows(path: Path, ranks: int) -> None:
    """Write down which rows this rank has in each step."""
    whole_step = Trainer.step

    def step(self: Trainer, batch: Any) -> None:
        assert distributed.world_size() == ranks
        with path.open("a") as file:
            file.write(json.dumps([self.progress.global_step, batch.index.tolist(), batch.input_ids.tolist()]) + "\n")
        whole_step(self, batch)

    Trainer.step = step  # type: ignore[method-assign]


def run_with(ranks: int, folder: Path, config: Config, *, resume: bool = False) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcontrast.build", "mmcontrast.build.run", "mmcontrast.cli"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    processes = [
        context.Process(target=run_rank, args=(rank, ranks, port, folder, config, resume)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0] * ranks, (folder / "output-0.txt").read_text()


def rows_of(folder: Path, which: str, ranks: int) -> dict[int, tuple[list[int], list[list[int]]]]:
    """{step: rows and captions of its global batch}, those of the ranks one after another."""
    parts = [(folder / f"rows-{which}-{ranks}-{rank}.jsonl").read_text().splitlines() for rank in range(ranks)]
    steps: dict[int, tuple[list[int], list[list[int]]]] = {}
    for lines in zip(*parts, strict=True):
        found = [json.loads(line) for line in lines]
        ids = [[token for token in row if token] for part in found for row in part[2]]  # padded by rank
        steps[found[0][0]] = ([row for part in found for row in part[1]], ids)
    return steps
