"""Whatever the sizes: each item at most once an epoch, the same batches for any number of ranks, exact resumption."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from mmcontrast.data.columns import Columns
from mmcontrast.data.rows import Row
from mmcontrast.data.sampler import GlobalBatchSampler
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.steady import PATIENCE, Unit
from mmcontrast.data.stream import PairStream
from mmcontrast.types import BadRow

quick = settings(derandomize=True, max_examples=80, deadline=None)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """Items, global batch, ranks that divide it."""
    ranks = draw(st.integers(1, 6))
    batch = ranks * draw(st.integers(1, 8))
    return draw(st.integers(batch, batch + 60)), batch, ranks


def indices(sampler: GlobalBatchSampler) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in sampler]


@quick
@given(sizes(), st.integers(-(2**40), 2**40), st.integers(0, 2**20), st.data())
def test_batches(size: tuple[int, int, int], seed: int, epoch: int, data: st.DataObject) -> None:
    items, batch, ranks = size
    whole = GlobalBatchSampler(items, batch, seed=seed)
    whole.set_epoch(epoch)
    batches = indices(whole)
    assert len(batches) == len(whole) == items // batch
    drawn = [index for one in batches for index in one]
    assert len(set(drawn)) == len(drawn) == len(batches) * batch
    assert set(drawn) <= set(range(items))
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    parts = []
    for rank in range(ranks):
        sampler = GlobalBatchSampler(items, batch, seed=seed, rank=rank, world_size=ranks)
        sampler.set_epoch(epoch, start, stop_batch=stop)
        parts.append(indices(sampler))
    together = [[index for part in parts for index in part[k]] for k in range(stop - start)]
    assert together == batches[start:stop]


def _unit(first: int, count: int) -> list[Row | BadRow]:
    rows: list[Row | BadRow] = []
    for i in range(first, first + count):
        row = Row(b"x", ["c"], None, None, "f", i, i)
        rows.append(BadRow("f", i, "bad") if i % 7 == 3 else row)
    return rows


def numbers(rows: Iterable[Row | BadRow]) -> list[int]:
    return [row.row for row in rows]


def numbers_of(units: list[Unit]) -> list[int]:
    return [number for unit in units for number in numbers(unit())]


@quick
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.integers(1, 7),
    st.integers(0, 99),
    st.integers(0, 9),
    st.none() | st.integers(0, 40),
)
def test_shares_of_a_stream(counts: list[int], shares: int, seed: int, epoch: int, limit: int | None) -> None:
    starts = [sum(counts[:k]) for k in range(len(counts))]
    units = [Unit(lambda first=first, n=n: iter(_unit(first, n))) for first, n in zip(starts, counts, strict=True)]
    stream = PairStream("s", Columns("image", ("caption",)), None, units, limit)
    found = [numbers_of(stream.shard(number, shares, seed, epoch)) for number in range(shares)]
    expected = list(range(sum(counts)))[:limit]
    assert sorted(row for share in found for row in share) == expected
    assert found == [numbers_of(stream.shard(number, shares, seed, epoch)) for number in range(shares)]


@quick
@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 2**40))
def test_a_buffer_loses_nothing(count: int, size: int, seed: int) -> None:
    units = [Unit(lambda: iter(_unit(0, count)))]
    found = numbers(ShuffledShare(units, PATIENCE, size, seed))
    assert sorted(found) == list(range(count))
    assert found == numbers(ShuffledShare(units, PATIENCE, size, seed))
    # No row comes earlier than the buffer allows.
    good = [i for i in range(count) if i % 7 != 3]
    place = {row: k for k, row in enumerate(row for row in found if row % 7 != 3)}
    assert all(good.index(row) <= place[row] + max(size, 1) for row in good)
