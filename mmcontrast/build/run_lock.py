"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import filelock

from mmcontrast.errors import TrainingError

LINGERING = 30.0
"""Seconds that the readers of a killed run are waited for: they notice within a few that it is gone."""


class RunLock:
    """Held by the first rank while it trains in a folder.

    The operating system drops the lock when the process ends, however it does, so a run that was killed blocks nobody.
    `run.pid` only says who holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder = folder / "run.pid"
        self._lock = filelock.FileLock(folder / "run.lock")

    def acquire(self) -> None:
        """Take the lock; the folder exists.

        Raises:
            TrainingError: another process trains here. Nothing was touched.
        """
        deadline = time.monotonic() + LINGERING
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except filelock.Timeout:
                holder = self._read()
                if time.monotonic() > deadline or not _is_gone(holder):
                    raise TrainingError(
                        f"{self.folder} is in use by {_words(holder)}: wait for it, stop it, or take another --output"
                    ) from None
                time.sleep(0.2)
        self._holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")

    def release(self) -> None:
        """Let go; leaves no file behind."""
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)
            # While it is held: who opened the file before sees that it has no name any more, and opens it anew.
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self._holder.read_text())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process that is named has ended, on this machine."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _words(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    return f"process {holder.get('pid')} on {holder.get('host')}"
