"""The files of an image cache while it is built: what can be gone on with, and when it is valid."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mmcontrast.data.image_cache import INDEX, PICTURES, RECORD, SEAL

ABOUT, RECORDS, REASONS = "source.json", "records.part", "bad_rows.part"


@dataclass
class Block:
    """Some rows: their bytes one after another, (height, width, crc) of each, and why the bad ones are bad."""

    pixels: Tensor
    shapes: list[tuple[int, int, int]]
    reasons: list[str | None]


@dataclass
class Part:
    """What is built so far: the first `len(records)` rows."""

    records: list[tuple[int, int, int, int]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    end: int = 0

    def add(self, block: Block) -> list[int]:
        """Note a block; returns which of its rows are bad."""
        bad = []
        for (height, width, crc), reason in zip(block.shapes, block.reasons, strict=True):
            if reason is not None:
                bad.append(len(self.records))
                self.reasons[len(self.records)] = reason
            self.records.append((self.end, height, width, crc))
            self.end += height * width * 3
        return bad


def seal(place: Path, name: str, part: Part) -> None:
    """Make a built cache valid: its last file appears at once and after all others are on the disk."""
    stream = io.BytesIO()
    np.save(stream, np.array(part.records, dtype=RECORD), allow_pickle=False)
    replace(place / INDEX, stream.getvalue())
    values = {
        "source": name,
        "rows": len(part.records),
        "bytes": part.end,
        "index": hashlib.blake2b(stream.getvalue()).hexdigest(),
        "bad_rows": part.reasons,
    }
    replace(place / SEAL, json.dumps(values, ensure_ascii=False).encode())
    for name in (RECORDS, REASONS):
        (place / name).unlink(missing_ok=True)


def resume(place: Path) -> Part:
    """The rows that an interrupted build wrote whole, as their checksums show; what comes after them is cut off."""
    part = Part()
    with suppress(OSError, ValueError):
        data = (place / RECORDS).read_bytes()
        records = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], dtype=RECORD)
        reasons = _whole_reasons(place / REASONS)
        with (place / PICTURES).open("rb") as pictures:
            for row, (offset, height, width, crc) in enumerate(records.tolist()):
                pixels = pictures.read(height * width * 3)
                bad = height == 0
                if offset != part.end or zlib.crc32(pixels) != crc or (bad and row not in reasons):
                    break
                part.add(Block(torch.empty(0), [(height, width, crc)], [reasons[row] if bad else None]))
    lines = "".join(json.dumps([row, reason]) + "\n" for row, reason in part.reasons.items())
    replace(place / REASONS, lines.encode())
    replace(place / RECORDS, np.array(part.records, dtype=RECORD).tobytes())
    with (place / PICTURES).open("ab") as pictures:
        pictures.truncate(part.end)
    return part


def _whole_reasons(path: Path) -> dict[int, str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return dict(json.loads(line) for line in lines if line.endswith("\n"))


def write(file: BinaryIO, data: bytes | memoryview) -> None:
    """Append to a file."""
    file.write(data)
    file.flush()  # what a killed process wrote is then with the system, and a full disk shows here


def replace(path: Path, data: bytes) -> None:
    """Write a small file so that it is there whole or not at all, even after a power cut."""
    aside = path.with_name(f"{path.name}.new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
