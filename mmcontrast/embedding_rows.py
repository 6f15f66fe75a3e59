"""Rows of a source or a stream in their order, decoded by worker processes, from any row on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmcontrast.data.loader import worker_loader
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.data.steady import is_skipped_shard, steady_rows
from mmcontrast.data.stream import PairStream
from mmcontrast.errors import DataError
from mmcontrast.preprocess import ImagePreprocess, decode_image
from mmcontrast.types import BadRow

Picture = int | bytes | Path
"""Position in the source, an encoded picture, or its file."""


@dataclass(frozen=True)
class Place:
    """How far a data set was read: `offset` rows of its part number `unit`, and `rows` in all.

    A source is one part; the parts of a stream are its units.
    """

    unit: int = 0
    offset: int = 0
    rows: int = 0


class Entry(NamedTuple):
    """What is known of a row beside its picture."""

    row: int
    file: str
    label: int | None
    group: str | None
    captions: list[str]


class DecodedBatch(NamedTuple):
    """Consecutive rows.

    Attributes:
        pixels: (n, 3, h, w) uint8, the pictures that could be decoded.
        entries: n, of those pictures.
        bad_rows: the others.
        place: behind the batch.
    """

    pixels: Tensor
    entries: list[Entry]
    bad_rows: list[BadRow]
    place: Place


def decoded_batches(
    data: PairSource | PairStream,
    preprocess: ImagePreprocess,
    *,
    batch_size: int,
    part_rows: int,
    start: Place,
    workers: int,
    max_image_pixels: int,
) -> Iterator[DecodedBatch]:
    """All rows from `start` on, in batches that end wherever a multiple of `part_rows` rows was read.

    So which rows share a batch, and with it the last bits of their features, does not depend on where one starts.

    Args:
        data: read in this process; pictures of a source are read by the workers.
        preprocess: of the model.
        batch_size: rows at a time, bad ones included.
        part_rows: rows of a part.
        start: where an earlier call ended.
        workers: processes that decode; the batches are the same with any number.
        max_image_pixels: larger pictures are bad rows.
    """
    plan = _Plan(data, batch_size, part_rows, start)
    source = data if isinstance(data, PairSource) else None
    loader = worker_loader(
        _Decoder(source, preprocess, max_image_pixels),
        partial(_collate, size=preprocess.image_size),
        workers,
        2,
        persistent=False,
        batch_sampler=plan,
    )
    for pixels, problems in loader:
        entries, bad_rows, place = plan.taken.popleft()
        good = [entry for entry, problem in zip(entries, problems, strict=True) if problem is None]
        bad_rows += [
            BadRow(entry.file, entry.row, problem)
            for entry, problem in zip(entries, problems, strict=True)
            if problem is not None
        ]
        yield DecodedBatch(pixels, good, sorted(bad_rows, key=lambda bad: (bad.source, bad.row)), place)


class _Plan:
    """A batch sampler whose indices are the pictures themselves; `taken` is what they belong to, in the same order."""

    def __init__(self, data: PairSource | PairStream, batch_size: int, part_rows: int, start: Place) -> None:
        self.data, self.batch_size, self.part_rows, self.start = data, batch_size, part_rows, start
        self.taken: deque[tuple[list[Entry], list[BadRow], Place]] = deque()

    def __iter__(self) -> Iterator[list[Picture]]:
        rows = _source_rows(self.data, self.start) if isinstance(self.data, PairSource) else self._stream_rows()
        done = self.start.rows
        while True:
            # Up to the next end of a part, whatever the number of bad rows: the boundaries depend on nothing else.
            size = min(self.batch_size, self.part_rows - done % self.part_rows)
            batch = list(islice(rows, size))
            if not batch:
                return
            good = [(picture, entry) for picture, entry, _ in batch if isinstance(entry, Entry)]
            bad = [entry for _, entry, _ in batch if isinstance(entry, BadRow)]
            place = batch[-1][2]
            done = place.rows
            self.taken.append(([entry for _, entry in good], bad, place))
            yield [picture for picture, _ in good]

    def _stream_rows(self) -> Iterator[tuple[Picture, Entry | BadRow, Place]]:
        assert isinstance(self.data, PairStream)
        stream, done = self.data, self.start.rows
        for unit in range(self.start.unit, len(stream.units)):
            before = self.start.offset if unit == self.start.unit else 0
            for offset, row in enumerate(steady_rows(stream.units[unit], stream.patience), start=1):
                lost = is_skipped_shard(row)
                if offset <= before and not lost:
                    continue
                if stream.rows is not None and done >= stream.rows:
                    return
                done += 1
                # Behind a part whose rest is given up comes the next one, even if it can be read again by then.
                place = Place(unit + 1, 0, done) if lost else Place(unit, offset, done)
                if isinstance(row, BadRow):
                    yield b"", row, place
                else:
                    yield row.image, Entry(row.row, row.file, row.label, row.group, row.captions), place


def _source_rows(source: PairSource, start: Place) -> Iterator[tuple[Picture, Entry | BadRow, Place]]:
    for i in range(start.rows, len(source)):
        file = source.file(i) if isinstance(source, RowSource) else source.name
        entry = Entry(source.row_number(i), file, source.label(i), source.group(i), source.captions(i))
        yield i, entry, Place(0, i + 1, i + 1)


class _Decoder(Dataset["Tensor | str"]):
    """Pixels as the model sees them, or why there are none."""

    def __init__(self, source: PairSource | None, preprocess: ImagePreprocess, max_pixels: int) -> None:
        self.source, self.preprocess, self.max_pixels = source, preprocess, max_pixels

    def __getitem__(self, picture: Picture) -> Tensor | str:
        try:
            if isinstance(picture, int):
                assert self.source is not None
                picture = self.source.image(picture)
            return self.preprocess.pixels(decode_image(picture, self.max_pixels))
        except DataError as error:
            return str(error)


def _collate(items: Sequence[Tensor | str], size: int) -> tuple[Tensor, list[str | None]]:
    pixels = [item for item in items if isinstance(item, Tensor)]
    empty = torch.zeros((0, 3, size, size), dtype=torch.uint8)
    return torch.stack(pixels) if pixels else empty, [item if isinstance(item, str) else None for item in items]
