"""The one map-style source that all formats are read into: texts in memory, pictures by position."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmcontrast.data.columns import Columns
from mmcontrast.data.pictures import Pictures, picture_name
from mmcontrast.data.rows import RawRow, clean_captions, clean_group, encode_labels
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow


class RowSource:
    """A `PairSource` over pictures and arrays of texts; see `rows.PairSource` for the methods.

    Args:
        name: what the user called it.
        columns: columns in use.
        rows: the usable rows, with their positions among the pictures.
        captions: cleaned captions of each row.
        pictures: access to the pictures.
        label_names: names of the classes, or None.
        bad_rows: rows left out.
        caption_columns: number of the column that each caption of each row stood in; None where there is but one.

    Attributes:
        fingerprint: what tells the data from any other, where a library knows it; else None.
    """

    def __init__(
        self,
        name: str,
        columns: Columns,
        rows: Sequence[tuple[int, RawRow]],
        captions: Sequence[Sequence[str]],
        pictures: Pictures,
        label_names: list[str] | None,
        bad_rows: list[BadRow],
        caption_columns: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.name, self.columns, self.bad_rows = name, columns, bad_rows
        self.fingerprint: str | None = None
        self._pictures = pictures
        self._positions = np.array([position for position, _ in rows], dtype=np.int64)
        self._row_numbers = np.array([raw.row for _, raw in rows], dtype=np.int64)
        self._files = sorted({raw.file for _, raw in rows})
        number_of = {file: number for number, file in enumerate(self._files)}
        self._file_numbers = np.array([number_of[raw.file] for _, raw in rows], dtype=np.int32)
        self._offsets = np.fromiter(accumulate(map(len, captions), initial=0), dtype=np.int64)
        self._captions = pa.array(chain.from_iterable(captions), type=pa.large_string())
        places = None if caption_columns is None else chain.from_iterable(caption_columns)
        self._caption_columns = None if places is None else np.fromiter(places, dtype=np.int32)
        labels, self.label_names = encode_labels([raw.label for _, raw in rows], label_names, name)
        self._labels: NDArray[np.int64] | None = labels
        groups = [clean_group(raw.group) for _, raw in rows]
        self._groups = pa.array(groups, type=pa.large_string()) if any(groups) else None

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> bytes | Path:
        """The encoded picture, or the file that holds it."""
        return self._pictures.get(int(self._positions[i]))

    def captions(self, i: int) -> list[str]:
        """All captions of row i."""
        start, stop = self._offsets[i], self._offsets[i + 1]
        captions: list[str] = self._captions.slice(start, stop - start).to_pylist()
        return captions

    def caption_columns(self, i: int) -> list[int]:
        """For each caption of row i the place in `columns.captions` of the column that it stood in."""
        start, stop = self._offsets[i], self._offsets[i + 1]
        if self._caption_columns is None:
            return [0] * int(stop - start)
        numbers: list[int] = self._caption_columns[start:stop].tolist()
        return numbers

    def caption_counts(self) -> NDArray[np.int64]:
        """(n,) number of captions of every row."""
        return np.diff(self._offsets)

    def label(self, i: int) -> int | None:
        """Class of row i, or None."""
        return int(self._labels[i]) if self._labels is not None and self._labels[i] >= 0 else None

    def group(self, i: int) -> str | None:
        """Group of row i, or None."""
        group: str | None = self._groups[i].as_py() if self._groups is not None else None
        return group

    def row_number(self, i: int) -> int:
        """Position of row i in its file, from 0, a header not counted."""
        return int(self._row_numbers[i])

    @property
    def files(self) -> list[str]:
        """Data files that the rows stand in, or the one name where they are in none."""
        return self._files

    def places(self) -> bytes:
        """Where each row and its picture stands, for telling sources apart."""
        return b"".join(array.tobytes() for array in (self._positions, self._row_numbers, self._file_numbers))

    def identify_texts(self, update: Callable[[Any], object]) -> None:
        """Feed row numbers, captions, labels and groups to a hash, whole arrays at a time."""
        arrays: list[Any] = [self._row_numbers, self._offsets, *([] if self._labels is None else [self._labels])]
        for texts in (self._captions, self._groups):
            arrays += [] if texts is None else [buffer for buffer in texts.buffers() if buffer is not None]
        for array in arrays:
            update(memoryview(array))

    def file(self, i: int) -> str:
        """Data file that row i stands in."""
        file: str = self._files[self._file_numbers[i]]
        return file


def collect(
    name: str,
    raw_rows: Iterable[RawRow],
    pictures: Pictures,
    columns: Columns,
    *,
    label_names: list[str] | None = None,
    limit: int | None = None,
    captions_optional: bool = False,
) -> RowSource:
    """Sort rows into usable and bad ones, and make a source of the former.

    Rows that name the same picture file are one row with several captions: index = image. A row without a caption is
    a bad one where there are columns of captions, unless `captions_optional`.

    Raises:
        DataError: no usable row is left.
    """
    rows: list[tuple[int, RawRow]] = []
    captions: list[list[str]] = []
    numbers: list[list[int]] | None = [] if len(columns.captions) > 1 else None
    bad_rows: list[BadRow] = []
    first_with: dict[tuple[str, str | None], int] = {}
    for position, raw in enumerate(islice(raw_rows, limit)):
        cells = [clean_captions([cell]) for cell in raw.captions]
        texts, own = list(chain.from_iterable(cells)), [number for number, cell in enumerate(cells) for _ in cell]
        if raw.problem is None and columns.captions and not texts and not captions_optional:
            raw.problem = f"no caption: {', '.join(map(repr, columns.captions))} empty or missing"
        raw.problem = raw.problem or pictures.problem(position)
        if raw.problem is not None:
            bad_rows.append(BadRow(raw.file, raw.row, raw.problem))
            continue
        raw.captions = []
        picture = picture_name(raw.image)
        key = (os.path.dirname(raw.file), picture)
        if picture is not None and (known := first_with.setdefault(key, len(rows))) < len(rows):
            captions[known] += texts
            if numbers is not None:
                numbers[known] += own
            continue
        rows.append((position, raw))
        captions.append(texts)
        if numbers is not None:
            numbers.append(own)
    if not rows:
        raise no_rows(name, bad_rows)
    return RowSource(name, columns, rows, captions, pictures, label_names, bad_rows, numbers)


def no_rows(name: str, bad_rows: Sequence[BadRow]) -> DataError:
    """The error for data without a usable row."""
    if not bad_rows:
        return DataError(f"{name}: there is no row in it")
    first = bad_rows[0]
    return DataError(
        f"{name}: no usable row: all {len(bad_rows)} are bad, the first ({first.source}, row {first.row}): "
        f"{first.reason}"
    )
