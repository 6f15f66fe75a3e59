"""What tells the pictures of a data set from any others, and from themselves before they were changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError


class Hash(Protocol):
    """As of hashlib."""

    def update(self, data: bytes, /) -> None: ...  # noqa: D102


def identify_pictures(source: PairSource, key: Hash) -> None:
    """Names, sizes and times of the files that hold the pictures, or the pictures themselves where they are in none."""
    states = _states_of_files(source)
    if states is None:
        for row in range(len(source)):
            key.update(_row_state(source, row))
    else:
        key.update(states)


def _states_of_files(source: PairSource) -> bytes | None:
    """What tells the files apart that hold all pictures; None where pictures have a file each, or none."""
    if not isinstance(source, RowSource) or isinstance(source.image(0), Path):
        return None
    if source.fingerprint is not None:
        return source.fingerprint.encode() + source.places()
    files = [Path(file) for file in source.files]
    if not all(file.is_file() for file in files):
        return None
    return "".join(map(file_state, files)).encode() + source.places()


def _row_state(source: PairSource, row: int) -> bytes:
    try:
        image = source.image(row)
    except DataError as error:
        return f"|{error}".encode()
    if isinstance(image, Path):
        return file_state(image).encode()
    return hashlib.blake2b(image, digest_size=16).digest()


def file_state(file: Path) -> str:
    """Path, size and time of a file."""
    try:
        found = os.stat(file)
    except OSError:
        return f"|{os.path.abspath(file)}|absent"
    return f"|{os.path.abspath(file)}|{found.st_size}|{found.st_mtime_ns}"
