"""Whose a folder of features is: one process writes to it, and only to what it began itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from mmcontrast.embedding_shards import MANIFEST, write_json
from mmcontrast.errors import DataError

_LOCK = ".lock"
_WHAT = {
    "model": "of another model",
    "data": "of other data, or of this as it was before, or read in another way (--stream)",
}


@contextmanager
def claimed(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """The folder for this process alone; it holds nothing yet, or what was begun with the same manifest.

    Raises:
        DataError: it is a file, holds other files or features of something else, or another process writes to it.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; features need a folder")
    path, is_new = folder / MANIFEST, not folder.exists()
    if not is_new and not path.exists() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise DataError(f"{folder} holds other files than features; choose a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise DataError(f"another process writes to {folder}: wait for it, or choose another folder") from None
    try:
        if path.exists():
            _check_same(folder, manifest)
        else:
            write_json(path, manifest)
        yield
    finally:
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):
                os.rmdir(folder)  # only where nothing is in it


def _check_same(folder: Path, manifest: dict[str, Any]) -> None:
    try:
        before = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict):
        raise DataError(f"{folder / MANIFEST} is damaged: remove {folder} and embed again")
    for key, value in manifest.items():
        if key != "source" and before.get(key) != value:
            what = _WHAT.get(key, f"with {key} {before.get(key)}, not {value}")
            raise DataError(f"{folder} holds features {what}: choose another folder, or remove it")
