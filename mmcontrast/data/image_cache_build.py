"""Building an image cache: once, by worker processes, and so that no half-written one is ever used."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mmcontrast.data.image_cache import PICTURES, RECORD, SEAL, CacheSettings, ImageCache, cache_place
from mmcontrast.data.image_cache_files import ABOUT, REASONS, RECORDS, Block, replace, resume, seal, write
from mmcontrast.data.loader import worker_loader
from mmcontrast.data.rows import PairSource
from mmcontrast.data.transforms import picture_bytes, resized_crop
from mmcontrast.errors import DataError
from mmcontrast.preprocess import colours_last, decode_image, header_size

BLOCK = 16
"""Rows that a worker makes at a time."""
SAMPLE = 256
"""Rows whose headers are read to tell how large a cache will be."""


def open_image_cache(
    folder: str | Path,
    source: PairSource,
    settings: CacheSettings,
    *,
    workers: int = 0,
    say: Callable[[str], object] = lambda line: None,
    advance: Callable[[int], object] = lambda rows: None,
) -> ImageCache:
    """The cache of a source in `folder`, built if it is not there.

    Of several processes one builds while the others wait. A build that was interrupted goes on where it was.

    Args:
        folder: of all caches; created.
        source: the pictures.
        settings: how they are kept.
        workers: processes that decode.
        say: told in one line what is going on.
        advance: told how many more rows are done.

    Raises:
        DataError: there is no room, or the folder cannot be written to.
        DamagedCache: it is not what was written.
    """
    place = cache_place(folder, source, settings)
    if (place / SEAL).exists():
        return ImageCache(place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(place / "lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"image cache {place}: waiting for another process that builds it")
            lock.acquire()
        try:
            if not (place / SEAL).exists():
                _build(place, source, settings, workers, say, advance)
        finally:
            lock.release()
    except OSError as error:
        raise DataError(
            f"data.image_cache: {place} cannot be written ({error.strerror or error}): make room, or name another "
            "folder; what is built so far is kept"
        ) from None
    return ImageCache(place)


def _build(
    place: Path,
    source: PairSource,
    settings: CacheSettings,
    workers: int,
    say: Callable[[str], object],
    advance: Callable[[int], object],
) -> None:
    part = resume(place)
    expected = expected_bytes(source, settings)
    _check_room(place, expected - part.end)
    replace(place / ABOUT, json.dumps({"source": source.name, "rows": len(source), **asdict(settings)}).encode())
    again = f", going on at row {len(part.records)}" if part.records else ""
    say(f"image cache {place}: {len(source)} pictures, about {_size(expected)}{again}")
    for other in _others(place, source):
        say(f"image cache {other}: of the same source as it was, or with other settings; remove it if no run needs it")
    advance(len(part.records))
    with (
        (place / PICTURES).open("ab") as pictures,
        (place / RECORDS).open("ab") as records,
        (place / REASONS).open("ab") as reasons,
    ):
        loader = worker_loader(
            _Decoded(source, settings),
            _collate,
            workers,
            2,
            persistent=False,
            batch_size=BLOCK,
            sampler=range(len(part.records), len(source)),
        )
        for block in loader:
            start = len(part.records)
            bad = part.add(block)
            write(pictures, block.pixels.numpy().data)
            write(reasons, b"".join(json.dumps([row, part.reasons[row]]).encode() + b"\n" for row in bad))
            write(records, np.array(part.records[start:], dtype=RECORD).tobytes())
            advance(len(block.shapes))
        os.fsync(pictures.fileno())
    seal(place, source.name, part)


def _others(place: Path, source: PairSource) -> list[Path]:
    """Other caches of a source of the same name beside this one."""
    found = []
    for about in sorted(place.parent.glob(f"*/{ABOUT}")):
        with suppress(OSError, ValueError, KeyError):
            if about.parent != place and json.loads(about.read_text(encoding="utf-8"))["source"] == source.name:
                found.append(about.parent)
    return found


def expected_bytes(source: PairSource, settings: CacheSettings) -> int:
    """How large a cache will be, from the headers of some pictures."""
    rows = np.unique(np.linspace(0, len(source) - 1, SAMPLE, dtype=np.int64)).tolist()
    total = 0
    for row in rows:
        with suppress(DataError):
            width, height = header_size(source.image(row))
            scale = min(1.0, settings.side / min(width, height))
            total += round(width * scale) * round(height * scale) * 3 if width * height <= settings.max_pixels else 0
    return total * len(source) // len(rows) + RECORD.itemsize * len(source)


def _check_room(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"data.image_cache: {place} needs about {_size(needed)} and the disk has {_size(free)} free: make room, "
            "name a folder on another disk, or lower data.image_cache_size"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


class _Decoded(Dataset["NDArray[np.uint8] | str"]):
    """A picture as it is kept, or why it cannot be."""

    def __init__(self, source: PairSource, settings: CacheSettings) -> None:
        self.source, self.settings = source, settings

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> NDArray[np.uint8] | str:
        settings = self.settings
        try:
            image = decode_image(self.source.image(row), settings.max_pixels, settings.draft_side)
        except DataError as error:
            return str(error)
        picture = picture_bytes(image)
        height, width = picture.shape[:2]
        scale = settings.side / min(height, width)
        if scale >= 1:
            pixels = picture[..., :3].numpy()
        else:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            box = (0.0, 0.0, float(width), float(height))
            planes = resized_crop(picture, box, size, settings.interpolation).numpy()
            pixels = colours_last(planes).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(pixels)


def _collate(items: list[NDArray[np.uint8] | str]) -> Block:
    pixels = [torch.from_numpy(item).flatten() for item in items if not isinstance(item, str)]
    shapes = [(0, 0, 0) if isinstance(item, str) else (*item.shape[:2], zlib.crc32(item.data)) for item in items]
    reasons = [item if isinstance(item, str) else None for item in items]
    return Block(torch.cat(pixels) if pixels else torch.empty(0, dtype=torch.uint8), shapes, reasons)
