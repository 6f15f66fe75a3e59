"""Going on in the middle of a stream gives the very rows that would have come, without reading all again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from mmcontrast.data.rows import Row
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.steady import Patience, Unit
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow, StreamPosition

QUICK = Patience(retries=0, timeout=None)


class Units:
    """Units of some sizes; every fourth row is bad. `opened` are those that were read."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.opened = sizes, list[int]()
        self.units = [Unit(partial(self._rows, number), f"u{number}") for number in range(len(sizes))]

    def _rows(self, number: int) -> Iterator[Row | BadRow]:
        self.opened.append(number)
        for i in range(self.sizes[number]):
            index = 1000 * number + i
            bad = i % 4 == 3 or i == self.sizes[number] - 1
            yield BadRow(f"u{number}", i, "x") if bad else Row(b"", [], None, None, f"u{number}", i, index)


def share(units: Units, size: int, position: StreamPosition | None = None) -> ShuffledShare:
    return ShuffledShare(units.units, QUICK, size, 7, position)


def passed(units: Units, size: int) -> tuple[list[Row | BadRow], list[tuple[int, StreamPosition]]]:
    """All rows, and after each usable one: how many came, and where the share stood."""
    rows: list[Row | BadRow] = []
    places = []
    reader = share(units, size)
    for row in reader:
        rows.append(row)
        if isinstance(row, Row):
            places.append((len(rows), StreamPosition(0, reader.drawn, reader.counts)))
    return rows, places


@pytest.mark.parametrize("size", [0, 1, 2, 5, 17, 1000])
@pytest.mark.parametrize("sizes", [[9], [3, 1, 8, 0, 5, 5, 9, 2], [4] * 12, [1, 1, 1]])
def test_the_same_rows_come_from_every_position(sizes: list[int], size: int) -> None:
    rows, places = passed(Units(sizes), size)
    usable = sum(1 for row in rows if isinstance(row, Row))
    for count, position in places:
        rest = list(share(Units(sizes), size, position))
        if position.drawn < usable:
            assert rest == rows[count:], position
        else:  # bad rows at the end have travelled with the last item
            assert all(isinstance(row, BadRow) for row in rest)


def test_units_that_are_done_are_not_read() -> None:
    sizes = [40] * 50
    rows, places = passed(Units(sizes), 20)
    count, position = places[len(places) // 2]
    units = Units(sizes)
    assert list(share(units, 20, position)) == rows[count:]
    assert min(units.opened) > 15  # of 25 that are done, those whose rows are in the buffer are read again
    assert units.opened == sorted(set(units.opened))


def test_positions_may_be_chained() -> None:
    sizes = [6, 9, 3, 12, 8]
    rows, places = passed(Units(sizes), 5)
    position: StreamPosition | None = None
    found: list[int] = []
    while len(found) < len(places):
        reader = share(Units(sizes), 5, position)
        for row in reader:
            if isinstance(row, Row):
                found.append(row.index)
                position = StreamPosition(0, reader.drawn, reader.counts)
                if len(found) % 3 == 0:
                    break
    assert found == [row.index for row in rows if isinstance(row, Row)]


def test_rows_that_are_gone_are_an_error() -> None:
    _, places = passed(Units([12, 12, 12]), 4)
    position = places[14][1]
    with pytest.raises(DataError, match="where there were more before the run was interrupted"):
        list(share(Units([12, 3, 12]), 4, position))
