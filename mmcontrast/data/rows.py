"""What a row of data is, before and after cleaning; every format speaks in these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mmcontrast.data.columns import Columns
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow

_NO_CLASS = 2**53  # whole numbers from here on are not told apart
_NOT_A_CAPTION = {"nan", "NaN", "<NA>", "NULL", "#N/A"}  # what writers make of a missing text


@runtime_checkable
class PairSource(Protocol):
    """Random access to pictures and their captions.

    Attributes:
        name: what the user called it.
        columns: columns in use.
        label_names: names of the classes, or None.
        bad_rows: rows left out when the source was opened (found without decoding anything).
    """

    name: str
    columns: Columns
    label_names: list[str] | None
    bad_rows: list[BadRow]

    def __len__(self) -> int: ...

    def image(self, i: int) -> bytes | Path:
        """The encoded picture, or the file that holds it."""

    def captions(self, i: int) -> list[str]:
        """All captions of the picture: stripped, not empty; an empty list in a source with labels only."""

    def label(self, i: int) -> int | None:
        """Class of the picture."""

    def group(self, i: int) -> str | None:
        """Group of the picture: rows of one group are never negatives of one another."""

    def row_number(self, i: int) -> int:
        """Position of the row in its file, from 0, a header not counted."""


@runtime_checkable
class ColumnedSource(PairSource, Protocol):
    """A `PairSource` that knows which column a caption stood in."""

    def caption_columns(self, i: int) -> list[int]:
        """For each caption of row i the place of its column in `columns.captions`."""


@dataclass(slots=True)
class RawRow:
    """A row as it stands in the file.

    Attributes:
        file, row: where it stands.
        image: the cell of the picture, or None where only its position is known yet.
        captions: cells of the caption columns.
        label, group: cells.
        problem: why the row cannot be used, where the reader knows it already.
    """

    file: str
    row: int
    image: Any
    captions: list[Any]
    label: Any = None
    group: Any = None
    problem: str | None = None


@dataclass(slots=True)
class Row:
    """A clean row of a stream; `index` is equal for rows of the same picture."""

    image: bytes | Path
    captions: list[str]
    label: int | None
    group: str | None
    file: str
    row: int
    index: int


def is_missing(cell: Any) -> bool:
    """True of None, NaN and the empty string."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell)


def clean_captions(cells: Sequence[Any]) -> list[str]:
    """All usable captions in some cells: texts, lists of texts, or records with a text in them."""
    captions: list[str] = []
    waiting = list(reversed(cells))  # a stack: lists in JSON can lie deeper in one another than calls can
    while waiting:
        cell = waiting.pop()
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", "replace")
        if isinstance(cell, str):
            text = cell.strip() if cell.isascii() else without_surrogates(cell).strip()
            if text and text not in _NOT_A_CAPTION:
                captions.append(text)
        elif isinstance(cell, dict):
            waiting.append(cell.get("raw") or cell.get("caption") or cell.get("text"))
        elif isinstance(cell, Sequence | np.ndarray):
            waiting.extend(reversed(list(cell)))
        elif not is_missing(cell):
            with suppress(ValueError):  # Python refuses to spell numbers of thousands of digits
                captions.append(str(cell))
    return captions


def without_surrogates(text: str) -> str:
    """Text without halves of characters, as JSON escapes can leave behind: nothing can encode them."""
    return text.encode("utf-8", "ignore").decode("utf-8")


def clean_group(cell: Any) -> str | None:
    """Group id as text."""
    return None if is_missing(cell) else _class_text(cell)


def _class_text(cell: Any) -> str:
    try:
        return without_surrogates(str(cell))
    except ValueError:
        return hex(cell) if isinstance(cell, int) else "?"  # see `clean_captions`


def label_number(cell: Any) -> int | None:
    """A class given as a whole number (7, 7.0, "7"; -1 = none), or None if it is something else."""
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and -1 <= number < _NO_CLASS else None


def encode_labels(
    cells: Sequence[Any], names: list[str] | None, where: str
) -> tuple[NDArray[np.int64] | None, list[str] | None]:
    """Class numbers of all rows (-1 = none) and the names of the classes.

    Texts are numbered in sorted order, so that the numbers do not depend on the order of the rows.
    """
    present = [cell for cell in cells if not is_missing(cell)]
    if not present:
        return None, names
    if all(label_number(cell) is not None for cell in present):
        numbers = np.array([-1 if is_missing(cell) else label_number(cell) for cell in cells], dtype=np.int64)
        if names is not None and numbers.max() >= len(names):
            raise DataError(f"{where}: label {numbers.max()} has no name: there are {len(names)} class names")
        return numbers, names
    names = names or sorted({_class_text(cell) for cell in present})
    number_of = {name: number for number, name in enumerate(names)}
    unknown = {_class_text(cell) for cell in present} - number_of.keys()
    if unknown:
        raise DataError(f"{where}: label {sorted(unknown)[0]!r} is none of the class names {names[:10]}")
    return np.array([-1 if is_missing(cell) else number_of[_class_text(cell)] for cell in cells], dtype=np.int64), names
