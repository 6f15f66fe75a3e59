"""A worker that reads data, or another rank, is killed: whoever is left ends soon, and says what happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import assert_same_run, tiny_config, train

from mmcontrast.build.lost import lost_processes_told
from mmcontrast.config import dump_config
from mmcontrast.data import loader
from mmcontrast.errors import DataError, TrainingError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(400)]
SOON = 60.0
DEATH = 3  # the step that one process does not live to see


def _command(words: list[str], output: Path, prepare: Any, *arguments: Any) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    torch.set_num_threads(1)
    prepare(*arguments)
    from mmcontrast.cli import app

    app(words, prog_name="mmcontrast")


def start(words: list[str], output: Path, prepare: Any, *arguments: Any) -> Any:
    """A command line in a process of its own, which forks from one that has loaded all libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmcontrast.build", "mmcontrast.build.run", "mmcontrast.cli"])
    process = context.Process(target=_command, args=(words, output, prepare, *arguments))
    process.start()
    return process


def errors(output: Path) -> list[str]:
    text = output.read_text()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def _die_at(step: int, number: int) -> None:
    from mmcontrast.training.trainer import Trainer

    whole_step = Trainer.step

    def fatal(self: Trainer, batch: Any) -> None:
        if self.progress.global_step == step - 1:
            os.kill(os.getpid(), number)
        whole_step(self, batch)

    Trainer.step = fatal  # type: ignore[method-assign]


def _be_rank(rank: int, port: int, fate: int | None) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if fate is not None:
        _die_at(DEATH, fate)


@pytest.mark.parametrize("dead", [0, 1])
def test_the_other_rank_ends_soon_and_says_why(dead: int, tmp_path: Path) -> None:
    """Without a launcher that would end it, as under many schedulers; the first rank also keeps the meeting place."""
    config = tmp_path / "run.yaml"
    config.write_text(dump_config(tiny_config(tmp_path / "run", "training.checkpoint_every_steps=1")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["train", str(config)]
    outputs = [tmp_path / f"output-{rank}.txt" for rank in range(2)]
    fates = [signal.SIGKILL if rank == dead else None for rank in range(2)]
    ranks = [start(words, outputs[rank], _be_rank, rank, port, fates[rank]) for rank in range(2)]
    ranks[dead].join(200)
    assert ranks[dead].exitcode == -signal.SIGKILL, outputs[dead].read_text()
    begin = time.monotonic()
    ranks[1 - dead].join(SOON)
    assert ranks[1 - dead].exitcode == 1, outputs[1 - dead].read_text()
    assert time.monotonic() - begin < SOON
    (line,) = errors(outputs[1 - dead])
    assert line.startswith(f"error: process {1 - dead} of 2 stops, since another one is gone: what it printed last")
    assert "go on with --resume" in line
    assert not (tmp_path / "run" / "run.lock").exists() or dead == 0
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")]


def test_a_rank_that_falls_silent_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    """Stopped, it keeps its connections open, as a machine does that loses its network."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config, limit = tmp_path / "run.yaml", 10.0
    config.write_text(dump_config(tiny_config(tmp_path / "run", f"training.process_timeout_seconds={limit}")))
    words, outputs = ["train", str(config)], [tmp_path / f"output-{rank}.txt" for rank in range(2)]
    ranks = [
        start(words, outputs[rank], _be_rank, rank, port, signal.SIGSTOP if rank == 1 else None) for rank in range(2)
    ]
    try:
        while not _is_stopped(ranks[1].pid):
            assert ranks[1].is_alive(), outputs[1].read_text()
            time.sleep(0.05)
        begin = time.monotonic()
        ranks[0].join(SOON)
        assert ranks[0].exitcode == 1, outputs[0].read_text()
        assert 0.5 * limit < time.monotonic() - begin < limit + 20
    finally:
        ranks[1].kill()
        ranks[1].join()
    (line,) = errors(outputs[0])
    assert line.startswith(
        "error: process 0 of 2 stops, since another one has said nothing for training.process_timeout_seconds (it "
        "hangs, or its machine or network is gone): end it, and go on with --resume"
    )


def _is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _kill_a_worker() -> None:
    """Of the processes that read data, one kills itself when it is to make a batch."""
    whole = loader.collate

    def deadly(*arguments: Any, **options: Any) -> Any:
        info = torch.utils.data.get_worker_info()
        if info is not None and info.id == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **options)

    loader.collate = deadly  # type: ignore[assignment]
    loader.available_processors = lambda: 2


def test_a_worker_that_is_killed(tmp_path: Path, tiny_run: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(dump_config(tiny_config(tmp_path / "run", "data.workers=2")))
    begin = time.monotonic()
    process = start(["train", str(config)], tmp_path / "output.txt", _kill_a_worker)
    process.join(SOON)
    assert process.exitcode == 1, (tmp_path / "output.txt").read_text()
    assert time.monotonic() - begin < SOON
    (line,) = errors(tmp_path / "output.txt")
    assert line.startswith("error: a process that reads the data (pid ")
    assert "memory was full; lower data.workers, and go on with --resume" in line
    assert_same_run(train(tiny_config(tmp_path / "run"), resume=True).run_dir, tiny_run)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            DataError,
            r"\(pid 7\) was killed by",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), DataError, r"\(pid 7, 8\) ended without"),
        (RuntimeError("[pair.cc:5] Connection closed by peer [::1]:5"), RuntimeError, "Connection closed by peer"),
        (RuntimeError("shapes differ"), RuntimeError, "^shapes differ$"),
        (TrainingError("ours"), TrainingError, "^ours$"),
    ],
)
def test_words_of_torch(error: Exception, kind: type[Exception], message: str) -> None:
    """Alone, a lost connection is not that of another rank."""
    with pytest.raises(kind, match=message), lost_processes_told():
        raise error


def fail_while_cleaning_up() -> None:
    try:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    except RuntimeError as error:
        raise RuntimeError("while cleaning up") from error


def test_an_error_that_led_to_another_counts() -> None:
    with pytest.raises(DataError, match="pid 7"), lost_processes_told():
        fail_while_cleaning_up()
