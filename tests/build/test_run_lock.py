"""Two runs never share a folder, and one that is gone blocks nobody."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from tiny_runs import tiny_config, train

from mmcontrast.build import run_lock
from mmcontrast.build.run_lock import RunLock
from mmcontrast.errors import TrainingError

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, held: Event, enough: Event) -> None:
    lock = RunLock(folder)
    lock.acquire()
    held.set()
    enough.wait(60)
    os._exit(0)  # without letting go


def test_a_second_process_is_told_who_trains(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    held, enough = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_hold, args=(folder, held, enough))
    process.start()
    assert held.wait(60)
    config = tiny_config(folder)
    message = rf"run is in use by process {process.pid} on {socket.gethostname()}: wait for it, stop it, or take"
    for overwrite in (False, True):
        with pytest.raises(TrainingError, match=message):
            train(config, overwrite=overwrite)
    assert sorted(path.name for path in folder.iterdir()) == ["run.lock", "run.pid"]
    assert process.pid is not None
    process.kill()
    process.join()
    lock = RunLock(folder)
    lock.acquire()
    assert json.loads((folder / "run.pid").read_text())["pid"] == os.getpid()
    lock.release()
    assert list(folder.iterdir()) == []


def test_a_lock_is_let_go_when_the_run_fails(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", "model.image.name=resnet10tt")
    for _ in range(2):
        with pytest.raises(Exception, match="resnet10tt"):
            train(config)
    assert not list((tmp_path / "run").glob("run.*"))


def test_readers_that_linger_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is still held, but who took it is gone: its children notice within seconds."""
    monkeypatch.setattr(run_lock, "LINGERING", 0.5)
    other = RunLock(tmp_path)
    other.acquire()
    (tmp_path / "run.pid").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    with pytest.raises(TrainingError, match="is in use by process 4194305"):
        RunLock(tmp_path).acquire()
    (tmp_path / "run.pid").write_text("{")
    with pytest.raises(TrainingError, match="is in use by another run"):
        RunLock(tmp_path).acquire()
    other.release()
