"""A stream, or a mixture of streams, as training items: readers with a share each, who take turns in every batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmcontrast.data.dataset import PairItem, Transform, item_seed, make_item, reserved_caption
from mmcontrast.data.readers import Make, StreamReader
from mmcontrast.data.rows import Row
from mmcontrast.data.stream import PairStream
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow, ReaderPosition

MAX_SOURCES = 512
"""Sources of a mixture: their labels, below 2**53, are kept apart in 63 bits."""


class StreamDataset(IterableDataset[PairItem]):
    """Items of a stream for one rank; each is a pure function of (seed, epoch, row).

    The stream is dealt out to readers, who hold a shuffle buffer each. Ranks and their workers run the readers, each
    some that follow one another, and all give `take` items to each batch: so a global batch is that of the readers, in
    their order, whoever runs them::

        4 readers     reader 0  | reader 1  | reader 2  | reader 3
        global batch  7  1  12  | 9  3  4   | 20 6  17  | 2  11 8     take 3
        2 ranks       rank 0                | rank 1
        1 rank        worker 0              | worker 1

    In a mixture each reader has its share of each source, and goes through it again when it has ended, in another
    order; which source an item comes from is fixed by its place in the run.

    Args:
        stream: the rows.
        transform: picture to uint8 tensor; its randomness must come from torch.
        seed: of everything random.
        shuffle_buffer: rows (not decoded) that each reader holds to shuffle them; sources have a part by their weight.
        rank, world_size: share of this process.
        repeat: start over at the end, as the next epoch, for ever. Needed with mixtures, and with several ranks, whose
            shares may differ in length: count steps then.
        readers: how many the stream is dealt out to; None for one in each worker of each rank.
        max_image_pixels: pictures that claim more are bad rows.
        reserve_captions: keep one caption of some rows from training and put it beside; see `reserved_caption`.
        draft_side: shorter side that JPEGs may be decoded at; see `decode_image`.

    Attributes:
        take: items that a reader gives before the next one has its turn.
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
        readers: int | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        reserve_captions: bool = False,
        draft_side: int | None = None,
    ) -> None:
        for part in stream.parts or (stream,):
            if not part.columns.captions:
                raise DataError(f"{part.name}: has no captions to train on (set data.caption_column)")
        if stream.parts and not repeat:
            raise DataError(f"{stream.name}: a mixture has no end; set repeat")
        self.stream, self.transform, self.seed = stream, transform, seed
        self.shuffle_buffer, self.repeat, self.max_image_pixels = shuffle_buffer, repeat, max_image_pixels
        self.reserve_captions, self.draft_side = reserve_captions, draft_side
        self.rank, self.world_size, self.readers, self.take = rank, world_size, readers, 1
        self._resume: Mapping[int, ReaderPosition] = {}
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that live on see it change

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch.fill_(epoch)

    def resume(self, positions: Mapping[int, ReaderPosition]) -> None:
        """Let the next iteration go on where the readers stood, told by their numbers; others begin."""
        self._resume = dict(positions)

    def __iter__(self) -> Iterator[PairItem]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        count = self.readers or self.world_size * workers
        own = count // (self.world_size * workers)
        first = (self.rank * workers + number) * own
        positions, self._resume = self._resume, {}
        readers = [iter(self._reader(first + place, count, positions.get(first + place))) for place in range(own)]
        if own == 1:
            yield from readers[0]
        while own > 1:
            for reader in readers:
                items = list(islice(reader, self.take))
                if len(items) < self.take:  # the end of a stream that is not repeated
                    return
                yield from items

    def _reader(self, number: int, count: int, position: ReaderPosition | None) -> StreamReader:
        parts = self.stream.parts or (self.stream,)
        makes: list[Make] = [partial(self._item, source) for source in range(len(parts))]
        return StreamReader(
            parts,
            makes,
            self.stream.mixture,
            number=number,
            count=count,
            seed=self.seed,
            shuffle_buffer=self.shuffle_buffer,
            epoch=int(self._epoch),
            repeat=self.repeat,
            position=position,
        )

    def _item(self, source: int, row: Row, epoch: int) -> PairItem | BadRow:
        rng = random.Random(item_seed(self.seed, epoch, row.index))
        try:
            reserved = reserved_caption(row.index, row.captions) if self.reserve_captions else None
            item = make_item(
                row.image, row.captions, self.transform, rng, self.max_image_pixels, None, reserved, self.draft_side
            )
        except DataError as error:
            return BadRow(row.file, row.row, str(error))
        group, label = row.group, row.label
        if source:  # groups and classes of one source have nothing to do with those of another
            group = None if group is None else f"{source}\0{group}"
            label = None if label is None or label < 0 else label + (source << 53)
        return item.belonging_to(row.index, group, label)
