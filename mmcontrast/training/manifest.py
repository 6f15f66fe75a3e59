"""What a checkpoint holds: name, size and checksum of each file, written after all of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import IO, Any, cast

import torch

MANIFEST = "manifest.json"
_PIECE = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file, as it was meant to be written."""

    size: int
    sha256: str


class _Hashing:
    """A file that hashes what is written into it: what the disk makes of it later cannot fool the checksum."""

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        written = self.file.write(data)
        self.size += written
        return written

    def flush(self) -> None:
        self.file.flush()


def write_state(path: Path, state: Mapping[str, Any]) -> FileRecord:
    """`torch.save`, flushed to the disk."""
    with path.open("wb") as file:
        hashing = _Hashing(file)
        torch.save(state, cast(IO[bytes], hashing))  # it only writes and flushes
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(hashing.size, hashing.digest.hexdigest())


def write_manifest(folder: Path, records: Mapping[str, FileRecord]) -> None:
    """The manifest of `folder`, flushed to the disk; a folder without one is no checkpoint."""
    files = {name: {"size": record.size, "sha256": record.sha256} for name, record in sorted(records.items())}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: Path, *, thorough: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None where it is whole.

    Args:
        folder: of the checkpoint.
        thorough: read all files and compare their checksums; else only their sizes.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        records = {str(name): FileRecord(int(of["size"]), str(of["sha256"])) for name, of in files.items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return f"its {MANIFEST} cannot be read"
    if not records:
        return f"its {MANIFEST} names no file"
    for name, record in records.items():
        if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
            return f"its {MANIFEST} names {name!r}, which is no file of its own"
        try:
            size = (folder / name).stat().st_size
            if size != record.size:
                return f"{name} has {size} bytes instead of {record.size}"
            if thorough and _sha256(folder / name) != record.sha256:
                return f"{name} does not have the bytes that were written"
        except OSError as error:
            return f"{name}: {error.strerror}"
        except ValueError:  # half a character
            return f"its {MANIFEST} names {name!r}, which no file can be called"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
