"""Streaming: rows in the order of the files, through a shuffle buffer, without an index of the data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmcontrast.data.columns import Columns
from mmcontrast.data.dataset import bad_row, item_seed
from mmcontrast.data.keys import text_key
from mmcontrast.data.mixing import Mixture, in_turn
from mmcontrast.data.opening import is_remote
from mmcontrast.data.pictures import file_problem, picture_name, picture_path
from mmcontrast.data.rows import PairSource, RawRow, Row, clean_captions, clean_group, is_missing, label_number
from mmcontrast.data.steady import PATIENCE, Patience, Unit, steady_rows
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow


class PairStream:
    """Rows of a data set in order, without random access.

    Args:
        name: what the user called it.
        columns: columns in use.
        label_names: names of the classes, if the data says them up front.
        units: its parts.
        rows: only the first so many rows.
        files: that hold the rows, if any do.
        source: what is streamed, where it could also be read in any order.
        patience: with parts that cannot be read, or that stall.
        num_files: numbers of files that its rows have in their indices.
        parts: the streams that it is mixed of; none for a plain one.
        mixture: which of them each pair comes from.
    """

    def __init__(
        self,
        name: str,
        columns: Columns,
        label_names: list[str] | None,
        units: Sequence[Unit],
        rows: int | None = None,
        *,
        files: Sequence[str] = (),
        source: PairSource | None = None,
        patience: Patience = PATIENCE,
        num_files: int = 1,
        parts: Sequence[PairStream] = (),
        mixture: Mixture | None = None,
    ) -> None:
        self.name, self.columns, self.label_names = name, columns, label_names
        self.units, self.rows = list(units), rows
        self.files, self.source, self.patience = tuple(files), source, patience
        self.num_files, self.parts, self.mixture = num_files, tuple(parts), mixture

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows, the bad ones as `BadRow`; DataError at the first part that cannot be read."""
        return islice(chain.from_iterable(unit() for unit in self.units), self.rows)

    def steady(self) -> Iterator[Row | BadRow]:
        """All rows once; a part that cannot be read is tried again, then left out as one `BadRow`."""
        if self.mixture is not None:
            return in_turn([part.steady() for part in self.parts], self.mixture.source)
        return islice(chain.from_iterable(steady_rows(unit, self.patience) for unit in self.units), self.rows)

    def shard(self, number: int, count: int, seed: int = 0, epoch: int = 0) -> list[Unit]:
        """Share `number` of `count`, as parts to be read one after another.

        Together the shares are the whole, and no row is in two. Whole units are dealt out, in an order that depends
        on (seed, epoch), if there are enough of them; otherwise every share reads all units and keeps each `count`-th
        row of them, others in the next epoch: so each share gets every row in time, be they as few as they may.
        """
        if self.rows is not None:
            return [Unit(partial(_every, self.steady, (number + epoch) % count, count))]
        order = list(range(len(self.units)))
        random.Random(item_seed(seed, epoch, 0)).shuffle(order)
        if len(order) >= count:
            return [self.units[place] for place in order[number::count]]
        # Each unit begins with another share, so that the shares stay about equally long.
        units = [(self.units[place], (number - turn + epoch) % count) for turn, place in enumerate(order)]
        return [Unit(partial(_every, unit, first, count), unit.name) for unit, first in units]


def _every(read: Callable[[], Iterator[Row | BadRow]], first: int, count: int) -> Iterator[Row | BadRow]:
    return islice(read(), first, None, count)


def clean_row(raw: RawRow, columns: Columns, root: Path | None, file_number: int) -> Row | BadRow:
    """A row of a stream from a raw one, or why it is bad.

    Rows that name the same picture file get the same index. `root` is the folder that names of pictures are relative
    to; None where pictures must be in the row.
    """
    index = (file_number << 32) | raw.row
    captions = clean_captions(raw.captions)
    try:
        if raw.problem is not None:
            raise DataError(raw.problem)
        if columns.captions and not captions:
            raise DataError(f"no caption: {', '.join(map(repr, columns.captions))} empty or missing")
        image = _picture(raw.image, root)
    except DataError as error:
        return BadRow(raw.file, raw.row, str(error))
    if isinstance(image, Path):
        index = text_key(str(image))
    label = None if is_missing(raw.label) else label_number(raw.label)
    return Row(image, captions, label, clean_group(raw.group), raw.file, raw.row, index)


def _picture(cell: Any, root: Path | None) -> bytes | Path:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return cell
    name = picture_name(cell)
    if name is None:
        raise DataError("no picture in this row")
    if root is None:
        raise DataError(f"the picture is the name of a file ({name}): in files behind URLs pictures must be bytes")
    path = picture_path(name, root)
    problem = file_problem(path)
    if problem is not None:
        raise DataError(problem)
    return path


def clean_rows(
    raw_rows: Callable[[], Iterable[RawRow]], columns: Columns, root: Path | None, file_number: int
) -> Iterator[Row | BadRow]:
    """A unit from a function that reads raw rows."""
    for raw in raw_rows():
        yield clean_row(raw, columns, root, file_number)


def mix_streams(streams: Sequence[PairStream], weights: Sequence[float], seed: int) -> PairStream:
    """One stream out of several; each pair of it comes from one of them, by their weights.

    Args:
        streams: opened with file numbers of their own, so that no two rows have one index.
        weights: shares of the pairs that are drawn, relative to one another.
        seed: of the order in which they take turns.

    Raises:
        DataError: a file is in two of them.
    """
    owner: dict[str, int] = {}
    for number, stream in enumerate(streams):
        for file in stream.files:
            place = file if is_remote(file) else os.path.realpath(file)
            if (first := owner.setdefault(place, number)) != number:
                raise DataError(
                    f"{file} is in two sources of data.train, number {first} ({streams[first].name}) and number "
                    f"{number} ({stream.name}): its pictures would be negatives of themselves; leave it out of one"
                )
    return PairStream(
        " + ".join(stream.name for stream in streams),
        streams[0].columns,
        None,
        [unit for stream in streams for unit in stream.units],
        files=[file for stream in streams for file in stream.files],
        patience=streams[0].patience,
        num_files=sum(stream.num_files for stream in streams),
        parts=streams,
        mixture=Mixture(weights, seed),
    )


def stream_of(source: PairSource, block: int = 256, first_file: int = 0) -> PairStream:
    """A map-style source as a stream, in blocks of rows; its bad rows come first."""
    starts = range(0, len(source), block)
    units = [Unit(partial(_source_rows, source, start, start + block, first_file << 32)) for start in starts]
    units.append(Unit(partial(iter, source.bad_rows)))
    return PairStream(source.name, source.columns, source.label_names, units, source=source)


def _source_rows(source: PairSource, start: int, stop: int, first: int) -> Iterator[Row | BadRow]:
    for i in range(start, min(stop, len(source))):
        try:
            image = source.image(i)
        except DataError as error:
            yield bad_row(source, i, str(error))
            continue
        texts, place = source.captions(i), source.row_number(i)
        yield Row(image, texts, source.label(i), source.group(i), source.name, place, first | i)
