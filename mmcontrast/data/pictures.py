"""Random access to encoded pictures: files on disk, or cells of Arrow columns."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mmcontrast.data.arrow import arrow_errors, is_bytes, is_text
from mmcontrast.errors import DataError

IN_MEMORY_BYTES = 64 * 2**20
"""Picture columns up to this size are held in memory, larger ones in a memory-mapped file of the cache."""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2",
    ".ico", ".mpo",
})
# fmt: on
_NUMBERED_NAME = re.compile(r"(.*\.\w{3,4})#\d+")  # "1000268201.jpg#0": Flickr's way to number the captions


class Pictures(Protocol):
    """Encoded pictures by their position in the data."""

    def get(self, position: int) -> bytes | Path:
        """The encoded picture; DataError if there is none."""

    def problem(self, position: int) -> str | None:
        """Why the picture is unusable, as far as that shows without decoding it."""


def picture_name(cell: Any) -> str | None:
    """File name in a cell, cleaned; None if the cell holds none."""
    if not isinstance(cell, str) or not cell.strip():
        return None
    name = cell.strip()
    match = _NUMBERED_NAME.fullmatch(name)
    return match[1] if match else name


def picture_path(name: str, root: Path) -> Path:
    """Path of a picture named in a table: relative to the table's folder unless absolute."""
    if name.startswith(("http://", "https://")):
        raise DataError(
            f"{name} is a web address; download the pictures first (img2dataset does), "
            "or name another column as data.image_column"
        )
    return root / name.removeprefix("file://")


def file_problem(path: Path) -> str | None:
    """Why a picture file is unusable, without opening it."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        return f"missing file: {path} ({error.strerror})" if error.errno != 2 else f"missing file: {path}"
    except ValueError:  # a zero byte, or half a character
        return f"missing file: {path} (no file can have this name)"
    if not size:
        return f"empty file: {path}"
    return f"not a file: {path}" if path.is_dir() else None


class FilePictures:
    """Pictures in files.

    Args:
        roots: folder that a row's file name is relative to, one for all rows or one a row.
        names: file names.
    """

    def __init__(self, roots: Path | Sequence[Path], names: Sequence[str | None]) -> None:
        self.roots = roots
        # An Arrow array: workers share it, while a list would be copied to each by its reference counts. Of bytes,
        # since names of files need not be valid text.
        stored = [None if name is None else _name_bytes(name) for name in names]
        self.names = pa.array(stored, type=pa.large_binary())

    def get(self, position: int) -> Path:
        """Path of the picture."""
        name: bytes | None = self.names[position].as_py()
        if name is None:
            raise DataError("no picture in this row")
        return picture_path(os.fsdecode(name), self.roots if isinstance(self.roots, Path) else self.roots[position])

    def problem(self, position: int) -> str | None:
        """Missing or empty file."""
        if not self.names[position].is_valid:
            return "no picture in this row"
        return file_problem(self.get(position))


def _name_bytes(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # half a character, which no file has in its name
        return name.encode("utf-8", "backslashreplace")


class ArrowPictures:
    """Pictures in an Arrow column: bytes, file names, or structs of both as `datasets` writes them.

    Args:
        open_column: opens the column as a pyarrow.ChunkedArray; called again in other processes.
        roots: (first position, folder) pairs: file names are relative to the folder of their data file.
    """

    def __init__(self, open_column: Callable[[], Any], roots: Sequence[tuple[int, Path]]) -> None:
        self.open_column = open_column
        self._root_starts = [start for start, _ in roots]
        self._roots = [root for _, root in roots]
        self._chunks: list[tuple[Any, Any]] = []
        self._starts: list[int] = []
        self._lengths: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chunks": [], "_starts": [], "_lengths": []}

    def _locate(self, position: int) -> tuple[Any, Any, int]:
        """Arrays of bytes and of names, and where in them the position is."""
        if not self._chunks:
            chunks = [chunk for chunk in self.open_column().chunks if len(chunk)]
            self._starts = list(accumulate((len(chunk) for chunk in chunks[:-1]), initial=0))
            self._lengths = [len(chunk) for chunk in chunks]
            self._chunks = [_bytes_and_names(chunk) for chunk in chunks]
        number = bisect_right(self._starts, position) - 1
        if number < 0 or position - self._starts[number] >= self._lengths[number]:
            raise DataError("no picture in this row: the file's column of pictures is shorter than its others")
        return *self._chunks[number], position - self._starts[number]

    def get(self, position: int) -> bytes | Path:
        """The bytes, or the path of the file."""
        data, names, offset = self._locate(position)
        cell: bytes | None = data[offset].as_py() if data is not None else None
        if cell:
            return cell
        try:
            name = picture_name(names[offset].as_py()) if names is not None else None
        except UnicodeDecodeError:
            raise DataError("the picture's name is not UTF-8 text") from None
        if name is None or (data is not None and cell is not None):
            raise DataError("no picture in this row")
        return picture_path(name, self._roots[bisect_right(self._root_starts, position) - 1])

    def problem(self, position: int) -> str | None:
        """Empty cell, missing or empty file."""
        data, _, offset = self._locate(position)
        if data is not None and data[offset].is_valid and data[offset].as_buffer().size:
            return None
        try:
            found = self.get(position)
        except DataError as error:
            return str(error)
        return file_problem(found) if isinstance(found, Path) else None


def _bytes_and_names(chunk: Any) -> tuple[Any, Any]:
    """The arrays of bytes and of file names in a chunk, None where the column has no such part."""
    kind = chunk.type
    if isinstance(kind, pa.ExtensionType):
        return _bytes_and_names(chunk.storage)
    if pa.types.is_struct(kind):
        parts = dict(zip((field.name for field in kind), chunk.flatten(), strict=True))
        data, names = parts.get("bytes"), parts.get("path")
        if all(part is None or fits(part.type) for part, fits in ((data, is_bytes), (names, is_text))):
            return data, names
    if is_bytes(kind):
        return chunk, None
    if is_text(kind):
        return None, chunk
    raise DataError(f"pictures must be bytes, file names or structs of them, not {kind}: set data.image_column")


def parquet_column(files: Sequence[str], column: str, rows: int | None) -> Any:
    """One column of some Parquet files as a pyarrow.ChunkedArray, without holding large pictures in memory."""
    chunks: list[Any] = []
    for file in files:
        left = None if rows is None else rows - sum(map(len, chunks))
        if left == 0:
            break
        with arrow_errors(file), pq.ParquetFile(file, memory_map=True) as parquet:
            size = _unpacked_bytes(parquet)
            total = parquet.metadata.num_rows
            if left is not None and left < total:
                size, total = size * left // total, left
            if size <= IN_MEMORY_BYTES // len(files):
                chunks += _batches(parquet, column, total)
            else:
                chunks += _memory_mapped(_cached(parquet, file, column, total))
    return pa.chunked_array(chunks)


def _unpacked_bytes(parquet: pq.ParquetFile) -> int:
    """Of all columns: pictures outweigh the others, and Arrow ends the process over damaged entries of single ones."""
    meta = parquet.metadata
    return sum(max(0, meta.row_group(number).total_byte_size) for number in range(meta.num_row_groups))


def _batches(parquet: pq.ParquetFile, column: str, rows: int) -> Iterator[Any]:
    for batch in parquet.iter_batches(batch_size=1024, columns=[column]):
        if rows <= 0:
            return
        yield batch.column(0).slice(0, rows)
        rows -= len(batch)


def cache_folder() -> Path:
    """Folder of the cache: MMCONTRAST_CACHE, or mmcontrast/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MMCONTRAST_CACHE") or Path(home) / "mmcontrast")


def _cached(parquet: pq.ParquetFile, file: str, column: str, rows: int) -> Path:
    """An uncompressed Arrow copy of the column: a shuffled epoch would unpack a row group for each picture."""
    state = os.stat(file)
    identity = f"{os.path.abspath(file)}|{state.st_size}|{state.st_mtime_ns}|{column}|{rows}"
    key = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    target = cache_folder() / "pictures" / f"{key}.arrow"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
        os.close(descriptor)
        try:
            field = parquet.schema_arrow.field(column)
            with pa.ipc.new_file(name, pa.schema([field.remove_metadata()])) as writer:
                for array in _batches(parquet, column, rows):
                    writer.write_batch(pa.record_batch([array], names=[column]))
            os.replace(name, target)  # in one step: other ranks see no half-written file
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{file}: cannot keep its unpacked pictures in {target.parent} ({error}): set MMCONTRAST_CACHE to a "
            "folder with room, or data.streaming: true"
        ) from None
    return target


def _memory_mapped(path: Path) -> list[Any]:
    with pa.memory_map(str(path)) as mapped:
        chunks: list[Any] = pa.ipc.open_file(mapped).read_all().column(0).chunks
    return chunks
