"""Training pictures that were decoded and made smaller once, as bytes in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcontrast.data.identity import identify_pictures
from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError

FORMAT = 1
PICTURES, INDEX, SEAL = "pictures.bin", "index.npy", "cache.json"
RECORD = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("crc", "<u4")])
"""One row of the index; a picture without height is a bad row."""


class DamagedCache(DataError):
    """The cache is not what was written: training must not go on, as it would with a bad row."""


@dataclass(frozen=True)
class CacheSettings:
    """What the content of a cache depends on, besides its source.

    Attributes:
        side: pictures whose shorter side is larger are made so small; others stay as they are.
        interpolation: "bicubic" or "bilinear".
        max_pixels: larger pictures are bad rows.
        draft_side: shorter side that JPEGs may be decoded at; None = whole.
    """

    side: int
    interpolation: str
    max_pixels: int
    draft_side: int | None = None


class ImageCache:
    """Pictures of a source by row, read from the folder of a finished cache.

    Each picture is compared with its checksum when a process reads it first.

    Raises:
        DamagedCache: its files are not those that were written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
            digest, length = str(seal["index"]), int(seal["bytes"])
            self._reasons = {int(row): str(reason) for row, reason in seal["bad_rows"].items()}
            index = (folder / INDEX).read_bytes()
            size = (folder / PICTURES).stat().st_size
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise self._damaged(f"cannot be read ({type(error).__name__}: {error})") from None
        if hashlib.blake2b(index).hexdigest() != digest:
            raise self._damaged(f"{INDEX} is not what was written")
        if size != length:
            raise self._damaged(f"{PICTURES} has {size} bytes instead of {length}")
        self._index: NDArray[np.void] = np.load(folder / INDEX, allow_pickle=False)
        self._checked = np.zeros(len(self._index), dtype=bool)
        self._pictures: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pictures": None}  # other processes map the file themselves

    def __len__(self) -> int:
        return len(self._index)

    def get(self, row: int) -> NDArray[np.uint8]:
        """(h, w, 3) a picture; not to be written to.

        Raises:
            DataError: the row is bad, as it was when the cache was built.
            DamagedCache: the picture is not what was written.
        """
        if row in self._reasons:
            raise DataError(self._reasons[row])
        offset, height, width, crc = self._index[row].item()
        if self._pictures is None:
            # "c": torch warns of arrays that cannot be written to. Nobody writes, and nothing would reach the file.
            self._pictures = np.asarray(np.memmap(self.folder / PICTURES, dtype=np.uint8, mode="c"))
        flat = self._pictures[offset : offset + height * width * 3]
        if not self._checked[row]:
            if zlib.crc32(flat.data) != crc:
                raise self._damaged(f"row {row} of {PICTURES} is not what was written")
            self._checked[row] = True
        return flat.reshape(height, width, 3)

    def _damaged(self, what: str) -> DamagedCache:
        return DamagedCache(f"image cache {self.folder}: {what}; remove the folder, and it is built anew")


def cache_place(folder: str | Path, source: PairSource, settings: CacheSettings) -> Path:
    """Where in `folder` the cache of a source is: another source, a changed one, or other settings have another place.

    The place depends on names, sizes and times of the files that hold the pictures, or on the pictures themselves
    where they are in no file.
    """
    key = hashlib.blake2b(digest_size=10)
    key.update(json.dumps([FORMAT, source.name, len(source), asdict(settings)]).encode())
    identify_pictures(source, key)
    stem = "".join(c if c.isalnum() else "-" for c in Path(source.name).stem)[-40:].strip("-")
    return Path(folder) / f"{stem or 'pictures'}-{key.hexdigest()}"
