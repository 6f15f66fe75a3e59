"""Streaming: rows in the order of the files, through a shuffle buffer, without an index of the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmcontrast.data.columns import Columns
from mmcontrast.data.dataset import PairItem, Transform, bad_row, item_seed, make_item, reserved_caption
from mmcontrast.data.keys import text_key
from mmcontrast.data.map_source import no_rows
from mmcontrast.data.pictures import file_problem, picture_name, picture_path
from mmcontrast.data.rows import PairSource, RawRow, Row, clean_captions, clean_group, is_missing, label_number
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.steady import PATIENCE, Patience, Unit, steady_rows
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow, StreamPosition


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
    ) -> None:
        self.name, self.columns, self.label_names = name, columns, label_names
        self.units, self.rows = list(units), rows
        self.files, self.source, self.patience = tuple(files), source, patience

    def __iter__(self) -> Iterator[Row | BadRow]:
        """All rows, the bad ones as `BadRow`; DataError at the first part that cannot be read."""
        return islice(chain.from_iterable(unit() for unit in self.units), self.rows)

    def steady(self) -> Iterator[Row | BadRow]:
        """All rows; a part that cannot be read is tried again, then left out as one `BadRow`."""
        return islice(chain.from_iterable(steady_rows(unit, self.patience) for unit in self.units), self.rows)

    def shard(self, number: int, count: int, seed: int = 0, epoch: int = 0) -> list[Unit]:
        """Share `number` of `count`, as parts to be read one after another.

        Together the shares are the whole, and no row is in two. Whole units are dealt out, in an order that depends
        on (seed, epoch), if there are enough of them; otherwise every share reads all units and keeps each `count`-th
        row of them.
        """
        if self.rows is not None:
            return [Unit(partial(_every, self.steady, number, count))]
        order = list(range(len(self.units)))
        random.Random(item_seed(seed, epoch, 0)).shuffle(order)
        if len(order) >= count:
            return [self.units[place] for place in order[number::count]]
        # Each unit begins with another share, so that the shares stay about equally long.
        units = [(self.units[place], (number - turn) % count) for turn, place in enumerate(order)]
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


def stream_of(source: PairSource, block: int = 256) -> PairStream:
    """A map-style source as a stream, in blocks of rows; its bad rows come first."""
    starts = range(0, len(source), block)
    units = [Unit(partial(_source_rows, source, start, start + block)) for start in starts]
    units.append(Unit(partial(iter, source.bad_rows)))
    return PairStream(source.name, source.columns, source.label_names, units, source=source)


def _source_rows(source: PairSource, start: int, stop: int) -> Iterator[Row | BadRow]:
    for i in range(start, min(stop, len(source))):
        try:
            image = source.image(i)
        except DataError as error:
            yield bad_row(source, i, str(error))
            continue
        yield Row(image, source.captions(i), source.label(i), source.group(i), source.name, source.row_number(i), i)


class StreamDataset(IterableDataset[PairItem]):
    """Items of a stream for one rank; each is a pure function of (seed, epoch, row), their order is not.

    Args:
        stream: the rows.
        transform: picture to uint8 tensor; its randomness must come from torch.
        seed: of everything random.
        shuffle_buffer: rows (not decoded) that are held to be shuffled, over all workers of the rank.
        rank, world_size: share of this process.
        repeat: start over at the end, as the next epoch, for ever. Needed with several ranks, whose shares may
            differ in length: count steps then.
        max_image_pixels: pictures that claim more are bad rows.
        reserve_captions: keep one caption of some rows from training and put it beside; see `reserved_caption`.
        draft_side: shorter side that JPEGs may be decoded at; see `decode_image`.
    """

    def __init__(
        self,
        stream: PairStream,
        transform: Transform,
        *,
        seed: int = 0,
        shuffle_buffer: int = 10_000,
        rank: int = 0,
        world_size: int = 1,
        repeat: bool = False,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        reserve_captions: bool = False,
        draft_side: int | None = None,
    ) -> None:
        if not stream.columns.captions:
            raise DataError(f"{stream.name}: has no captions to train on (set data.caption_column)")
        self.stream, self.transform, self.seed = stream, transform, seed
        self.shuffle_buffer, self.repeat, self.max_image_pixels = shuffle_buffer, repeat, max_image_pixels
        self.reserve_captions, self.draft_side = reserve_captions, draft_side
        self.rank, self.world_size = rank, world_size
        self._resume: tuple[int, list[StreamPosition | None]] | None = None
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that live on see it change

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch.fill_(epoch)

    def resume(self, first: int, positions: Sequence[StreamPosition | None]) -> None:
        """Let the next iteration go on where each worker stood (None: at its beginning), worker `first` being next."""
        self._resume = (first, list(positions))

    def __iter__(self) -> Iterator[PairItem]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        position = None
        if self._resume is not None:
            (first, positions), self._resume = self._resume, None
            number = (number + first) % workers  # the loader begins with its first process again
            position = positions[number]
        epoch = int(self._epoch) if position is None else position.epoch
        found = True
        while found:
            found = position is not None and self.repeat
            for item in self._pass(epoch, number, workers, position):
                found = self.repeat
                yield item
            epoch, position = epoch + 1, None

    def _pass(self, epoch: int, number: int, workers: int, position: StreamPosition | None) -> Iterator[PairItem]:
        shard, shards = self.rank * workers + number, self.world_size * workers
        units = self.stream.shard(shard, shards, self.seed, epoch)
        size, order_seed = max(1, self.shuffle_buffer // workers), item_seed(self.seed, epoch, shard)
        share = ShuffledShare(units, self.stream.patience, size, order_seed, position)
        bad_rows: list[BadRow] = []
        last: PairItem | None = None  # held back, so that bad rows at the end have an item to travel with
        for row in share:
            item = self._item(row, epoch) if isinstance(row, Row) else row
            if isinstance(item, BadRow):
                bad_rows.append(item)
                continue
            item.position = StreamPosition(epoch, share.drawn, share.counts)
            if last is not None:
                yield last
            last, item.bad_rows, bad_rows = item, bad_rows, []
        if last is not None:
            last.bad_rows += bad_rows
            yield last
        elif bad_rows and position is None:
            raise no_rows(self.stream.name, bad_rows)

    def _item(self, row: Row, epoch: int) -> PairItem | BadRow:
        rng = random.Random(item_seed(self.seed, epoch, row.index))
        try:
            reserved = reserved_caption(row.index, row.captions) if self.reserve_captions else None
            item = make_item(
                row.image, row.captions, self.transform, rng, self.max_image_pixels, None, reserved, self.draft_side
            )
        except DataError as error:
            return BadRow(row.file, row.row, str(error))
        return item.belonging_to(row.index, row.group, row.label)
