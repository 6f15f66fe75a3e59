"""The shuffle buffer of a stream, and how it is filled again in the middle of an epoch without reading all anew."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

from mmcontrast.data.rows import Row
from mmcontrast.data.steady import Patience, Unit, steady_rows
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow, StreamPosition

T = TypeVar("T")


class ShuffleBuffer(Generic[T]):
    """Holds `size` rows; each further one takes the place of a random one. The order of rows depends on counts alone.

    Args:
        size: rows held; 1 or less passes all rows on as they come.
        seed: of the order.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.rng = size, random.Random(seed)
        self.held: list[T] = []

    def push(self, row: T) -> T | None:
        """Take a row in; the one that goes out, or None while the buffer is filled."""
        if self.size <= 1:
            return row
        if len(self.held) < self.size:
            self.held.append(row)
            return None
        chosen = self.rng.randrange(self.size)
        out, self.held[chosen] = self.held[chosen], row
        return out

    def rest(self) -> list[T]:
        """The rows still held, when no more come in."""
        self.rng.shuffle(self.held)
        return self.held


class ShuffledShare:
    """Rows of some units in an order that is random within about `size` rows; bad rows pass at once.

    To go on from a position, units are left unread whose rows are all given out: their number is known from before.
    So about ten times `size` rows are read again, whatever the length of the epoch.

    Args:
        units: the parts, in order.
        patience: with those that fail.
        size: of the buffer.
        seed: of the order.
        position: where to go on; None for the beginning.

    Attributes:
        drawn: usable rows given out.
        counts: usable rows of each unit that has come to its end.
    """

    def __init__(
        self, units: Sequence[Unit], patience: Patience, size: int, seed: int, position: StreamPosition | None = None
    ) -> None:
        self.units, self.patience, self.position = list(units), patience, position
        self.drawn = 0 if position is None else position.drawn
        self.counts: tuple[int, ...] = ()
        self._buffer: ShuffleBuffer[Row] = ShuffleBuffer(size, seed)
        self._slots: dict[int, int] = {}  # place in the buffer of each row that is in it, by its number
        self._held: list[int] = []  # the same numbers, sorted
        self._taken = 0  # rows that have gone into the buffer
        self._flushed = 0  # rows given out after the last one came in
        if position is not None:
            self._replay(position, seed)

    def _replay(self, position: StreamPosition, seed: int) -> None:
        """Find out, with numbers in place of rows, what is in the buffer at the position."""
        numbers: ShuffleBuffer[int] = ShuffleBuffer(self._buffer.size, seed)
        held = numbers.size if numbers.size > 1 else 0
        self._taken = position.drawn + held
        if len(position.counts) == len(self.units):
            self._taken = min(self._taken, sum(position.counts))
        for number in range(self._taken):
            numbers.push(number)
        self._flushed = position.drawn - max(0, self._taken - held)
        self._slots = {number: slot for slot, number in enumerate(numbers.held)}
        self._held = sorted(numbers.held)
        self._buffer.rng = numbers.rng

    def __iter__(self) -> Iterator[Row | BadRow]:
        found: dict[int, Row] = {}
        new = chain.from_iterable(self._unit_rows(number, found) for number in range(len(self.units)))
        ready = False
        for row in new:
            if isinstance(row, BadRow):
                yield row
                continue
            if not ready:
                self._fill(found)
                ready = True
            out = self._buffer.push(row)
            if out is not None:
                self.drawn += 1
                yield out
        if not ready:
            self._fill(found)
        for out in self._buffer.rest()[self._flushed :]:
            self.drawn += 1
            yield out

    def _fill(self, found: dict[int, Row]) -> None:
        self._buffer.held = [found[number] for number in self._slots]

    def _unit_rows(self, number: int, found: dict[int, Row]) -> Iterator[Row | BadRow]:
        """Rows of a unit that have not gone into the buffer yet; those that are in it go to `found`."""
        start, unit = sum(self.counts), self.units[number]
        count = self.position.counts[number] if self.position and number < len(self.position.counts) else None
        if count is not None and self._is_done(start, start + count):
            self.counts += (count,)
            return
        row_number, reason = start, ""
        for row in steady_rows(unit, self.patience):
            if isinstance(row, BadRow):
                reason = row.reason
                if row_number >= self._taken and not self._flushed:
                    yield row
                continue
            if count is not None and row_number == start + count:
                break  # the unit failed here before, so that this run does without the rest
            if row_number >= self._taken:
                yield row
            elif row_number in self._slots:
                found[row_number] = row
            row_number += 1
        if row_number < (self._taken if count is None else start + count):
            raise DataError(
                f"{unit.name or 'the data'}: {row_number - start} usable rows where there were more before the run was "
                f"interrupted, so that it cannot go on in the same order: {reason or 'the data changed'}"
            )
        self.counts += (row_number - start,)

    def _is_done(self, start: int, stop: int) -> bool:
        """Whether all rows of a unit are given out, and the bad rows at its end as well."""
        if stop > self._taken or (stop == self._taken and not self._flushed):
            return False
        return bisect_left(self._held, start) == bisect_left(self._held, stop)
