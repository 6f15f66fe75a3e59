"""Who reads a stream: each reader goes through a share of each source, again and again, in an order of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mmcontrast.data.dataset import PairItem, item_seed
from mmcontrast.data.map_source import no_rows
from mmcontrast.data.mixing import Mixture
from mmcontrast.data.rows import Row
from mmcontrast.data.shuffling import ShuffledShare
from mmcontrast.data.stream import PairStream
from mmcontrast.types import BadRow, ReaderPosition, StreamPosition

Make = Callable[[Row, int], PairItem | BadRow]
"""From a row and its epoch to an item, or to why there is none."""
_TURNS = 1 << 62
"""In place of a row's number: that no row has."""


class SourceReader:
    """The share of one source that one reader has.

    Args:
        stream: the source.
        make: what makes items of rows.
        number, count: of the reader.
        size: rows held to be shuffled.
        seed: of the order.
        repeat: go on with the next epoch for ever.
        position: where to begin.

    Attributes:
        position: where it stands after the last item.
    """

    def __init__(
        self,
        stream: PairStream,
        make: Make,
        *,
        number: int,
        count: int,
        size: int,
        seed: int,
        repeat: bool,
        position: StreamPosition,
    ) -> None:
        self.stream, self.make, self.number, self.count = stream, make, number, count
        self.size, self.seed, self.repeat, self.position = size, seed, repeat, position

    def __iter__(self) -> Iterator[PairItem | BadRow]:
        """Items, and rows that there is none of.

        Raises:
            DataError: no reader's share of the source has a usable row.
        """
        start = self.position if self.position.drawn else None
        epoch, barren, bad_rows = self.position.epoch, 0, list[BadRow]()
        while True:
            found, fresh = start is not None, list[BadRow]()
            units = self.stream.shard(self.number, self.count, self.seed, epoch)
            order_seed = item_seed(self.seed, epoch, self.number)
            share = ShuffledShare(units, self.stream.patience, self.size, order_seed, start)
            for row in share:
                item = self.make(row, epoch) if isinstance(row, Row) else row
                if isinstance(item, BadRow):
                    fresh += [] if found else [item]
                else:
                    found = True
                    self.position = StreamPosition(epoch, share.drawn, share.counts)
                yield item
            bad_rows = fresh or bad_rows
            barren = 0 if found else barren + 1
            # With fewer rows than readers, a share that has none in this epoch has one in another.
            if barren == (self.count if self.repeat else 1) and (self.repeat or bad_rows):
                raise no_rows(self.stream.name, bad_rows)
            if not self.repeat:
                return
            epoch, start = epoch + 1, None


class StreamReader:
    """One of the `count` readers that a stream or a mixture is dealt out to.

    Args:
        parts: the sources.
        makes: what makes items of the rows of each.
        mixture: which source each place of the run has; None with one source.
        number, count: of the reader.
        seed: of everything random.
        shuffle_buffer: rows held to be shuffled, over all sources.
        epoch: to begin with.
        repeat: go on for ever.
        position: where to go on; None for the beginning.
    """

    def __init__(
        self,
        parts: Sequence[PairStream],
        makes: Sequence[Make],
        mixture: Mixture | None,
        *,
        number: int,
        count: int,
        seed: int,
        shuffle_buffer: int,
        epoch: int = 0,
        repeat: bool = False,
        position: ReaderPosition | None = None,
    ) -> None:
        self.mixture, self.number, self.count = mixture, number, count
        self.seed, self.repeat = seed, repeat
        self.drawn = 0 if position is None else position.drawn
        begin = StreamPosition(epoch, 0, ())
        shares = [1.0] if mixture is None else mixture.shares
        self.sources = [
            SourceReader(
                part,
                make,
                number=number,
                count=count,
                size=max(1, round(shuffle_buffer * share)),
                seed=item_seed(seed, place, _TURNS) if place else seed,
                repeat=repeat,
                position=begin if position is None else position.sources[place],
            )
            for place, (part, make, share) in enumerate(zip(parts, makes, shares, strict=True))
        ]

    def __iter__(self) -> Iterator[PairItem]:
        rows = [iter(source) for source in self.sources]
        bad_rows: list[BadRow] = []
        held: PairItem | None = None  # at an end, so that bad rows there have an item to travel with
        while True:
            item = None
            for found in rows[self._turn()]:
                if isinstance(found, PairItem):
                    item = found
                    break
                bad_rows.append(found)
            if item is None:
                break
            self.drawn += 1
            item.position = ReaderPosition(self.number, self.drawn, tuple(s.position for s in self.sources))
            item.bad_rows, bad_rows = bad_rows, []
            if held is not None:
                yield held
            if self.repeat:
                yield item
            else:
                held = item
        if held is not None:
            held.bad_rows += bad_rows
            yield held

    def _turn(self) -> int:
        """The source of the next item.

        Each round of places has one for each reader, in an order that is drawn anew: were it always the same, a source
        that comes in every so-manyth place would come to some readers only, and their shares of it be read alone.
        """
        if self.mixture is None:
            return 0
        turn = (self.number + item_seed(self.seed, self.drawn, _TURNS)) % self.count
        return self.mixture.source(self.drawn * self.count + turn)
