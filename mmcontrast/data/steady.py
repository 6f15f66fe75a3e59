"""Shards that fail for a while, for ever, or say nothing at all: try again, then go on without them and say so."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from mmcontrast.data.rows import Row
from mmcontrast.errors import DataError, ReadError
from mmcontrast.types import BadRow

T = TypeVar("T")
log = logging.getLogger(__name__)

_CHUNK = 16
"""Rows that a reader hands over at a time."""
_AHEAD = 4
"""Chunks that it reads in advance."""
_SKIPPED = "the shard is skipped from this row on"


@dataclass(frozen=True)
class Unit:
    """A part of a data set that can be read on its own: a row group, a tar, a file.

    Attributes:
        read: its rows, the bad ones as `BadRow`.
        name: what it is called in reports; empty for one that is not in a file and need not be watched.
        rows: how many it has, where that is known without reading it.
    """

    read: Callable[[], Iterator[Row | BadRow]]
    name: str = ""
    rows: int | None = None

    def __call__(self) -> Iterator[Row | BadRow]:
        """All rows, from the first one."""
        return self.read()


@dataclass(frozen=True)
class Patience:
    """How long to wait for a shard, and how often to try again.

    Attributes:
        retries: further tries where reading fails for a reason that may pass; each row that comes renews them.
        first_wait: seconds before the first of them; doubled each time.
        timeout: seconds without a row after which a shard counts as stalled; None waits for ever.
    """

    retries: int = 4
    first_wait: float = 1.0
    timeout: float | None = 300.0


PATIENCE = Patience()


def steady_rows(unit: Unit, patience: Patience) -> Iterator[Row | BadRow]:
    """The rows of a unit in spite of errors; what cannot be read for good is one `BadRow` that says where and why.

    After an error it is read from its beginning again, and the rows that came already are passed over.
    """
    given, tries, next_row = 0, 0, 0
    while True:
        try:
            for row in islice(_watched(unit, patience.timeout), given, None):
                given, tries, next_row = given + 1, 0, row.row + 1
                yield row
            return
        except ReadError as error:
            if tries == patience.retries:
                yield _skipped(unit, next_row, given, f"{tries + 1} tries: {error}")
                return
            tries += 1
            _wait(patience, tries, str(error))
        except DataError as error:
            yield _skipped(unit, next_row, given, str(error))
            return


def _skipped(unit: Unit, row: int, given: int, reason: str) -> BadRow:
    log.warning("%s: skipped from row %d on: %s", unit.name, row, reason)
    missing = "" if unit.rows is None else f" ({unit.rows - given} rows)"
    return BadRow(unit.name, row, f"{_SKIPPED}{missing}: {reason}")


def is_skipped_shard(row: object) -> bool:
    """Whether a bad row stands for the rest of a shard that could not be read."""
    return isinstance(row, BadRow) and row.reason.startswith(_SKIPPED)


def skipped_shards(bad_rows: Iterable[BadRow]) -> tuple[int, int | None]:
    """How many shards could not be read to their end, and how many rows that cost; None where nobody can count them."""
    skipped = [row for row in bad_rows if is_skipped_shard(row)]
    counted = [re.match(r" \((\d+) rows\)", row.reason.removeprefix(_SKIPPED)) for row in skipped]
    known = [int(found[1]) for found in counted if found is not None]
    return len(skipped), sum(known) if len(known) == len(skipped) else None


def _wait(patience: Patience, tries: int, reason: str) -> None:
    wait = patience.first_wait * 2 ** (tries - 1)
    log.warning("%s; try %d of %d in %.1f s", reason, tries, patience.retries, wait)
    time.sleep(wait)


def retried(function: Callable[[], T], patience: Patience) -> T:
    """What a function returns, tried again while it raises `ReadError`."""
    for tries in range(1, patience.retries + 1):
        try:
            return function()
        except ReadError as error:
            _wait(patience, tries, str(error))
    return function()


def _watched(unit: Unit, timeout: float | None) -> Iterator[Row | BadRow]:
    """The rows of a unit, read by a thread that can be left behind.

    Raises:
        ReadError: no row has come for `timeout` seconds.
    """
    if timeout is None or not unit.name:
        yield from unit()
        return
    chunks: queue.Queue[list[Row | BadRow] | Exception | None] = queue.Queue(_AHEAD)
    stop = threading.Event()
    threading.Thread(target=_read, args=(unit, chunks, stop), daemon=True, name=f"read {unit.name}").start()
    try:
        while True:
            try:
                chunk = chunks.get(timeout=timeout)
            except queue.Empty:
                raise ReadError(f"{unit.name}: stalled: no row has come for {timeout:g} s") from None
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise chunk
            yield from chunk
    finally:
        stop.set()
        with suppress(queue.Empty):  # make room, so that the thread gets to see it
            while True:
                chunks.get_nowait()


def _read(unit: Unit, chunks: queue.Queue[list[Row | BadRow] | Exception | None], stop: threading.Event) -> None:
    chunk: list[Row | BadRow] = []
    last: Exception | None = None
    since = time.monotonic()
    try:
        for row in unit():
            chunk.append(row)
            if len(chunk) == _CHUNK or time.monotonic() - since > 1:  # rows may come slowly
                chunks.put(chunk)
                chunk, since = [], time.monotonic()
            if stop.is_set():
                return
    except Exception as error:  # raised again by who reads the rows
        last = error
    if chunk:
        chunks.put(chunk)
    if not stop.is_set():
        chunks.put(last)
