"""What the features of a folder are of, row by row."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import pyarrow.parquet as pq

from mmcontrast.errors import DataError

_COLUMNS = frozenset(("row", "file", "label", "group", "captions", "texts"))


@contextmanager
def damage_of(file: Path) -> Iterator[None]:
    """Whatever readers stumble over in a file becomes one line."""
    try:
        yield
    except Exception as error:  # numpy, Arrow and Python each have kinds of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file} is damaged ({reason[:200]}): remove {file.parent} and embed again") from None


class Rows(Sequence[dict[str, Any]]):
    """What image feature i is of: row and file in the data, label, group, captions, and their span `texts`."""

    def __init__(self, files: Sequence[Path], counts: Sequence[int]) -> None:
        self._files, self._starts = list(files), [0, *accumulate(counts)]
        self._read = lru_cache(maxsize=2)(_read_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = int(i) + len(self) * (i < 0)
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} rows, and none at {i}")
        number = bisect_right(self._starts, i) - 1
        return self._shard(number)[i - self._starts[number]]

    def _shard(self, number: int) -> list[dict[str, Any]]:
        with damage_of(self._files[number]):
            rows, wanted = self._read(self._files[number]), self._starts[number + 1] - self._starts[number]
            if len(rows) != wanted:
                raise ValueError(f"{len(rows)} rows instead of {wanted}")
            return rows


def _read_rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]]
    if file.suffix == ".parquet":
        rows = pq.read_table(file, columns=sorted(_COLUMNS)).to_pylist()
    else:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or row.keys() != _COLUMNS or not _is_span(row["captions"], row["texts"]):
            raise ValueError(f"its row {number} is none that was written")
    return rows


def _is_span(captions: Any, texts: Any) -> bool:
    """Whether these are the captions of a picture, and first and end position of their features."""
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        return False
    numbers = isinstance(texts, list) and len(texts) == 2 and all(type(number) is int for number in texts)
    return numbers and 0 <= texts[0] == texts[1] - len(captions)
