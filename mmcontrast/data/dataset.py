"""Training items: a picture as this epoch shows it, and one of its captions."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mmcontrast.data.image_cache import DamagedCache, ImageCache
from mmcontrast.data.keys import caption_key, text_key
from mmcontrast.data.map_source import RowSource
from mmcontrast.data.rows import PairSource
from mmcontrast.data.sampler import Draw
from mmcontrast.errors import ConfigError, DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, decode_image
from mmcontrast.types import NO_KEY, BadRow, ReaderPosition

Transform = Callable[[Any], Tensor]
"""From a Pillow picture, or the (h, w, 3) bytes of a cached one, to (3, h, w) uint8."""
MAX_REPLACEMENTS = 20
RESERVED_ONE_IN = 8


@dataclass(slots=True)
class PairItem:
    """One pair, ready to be collated.

    Attributes:
        image: (3, h, w) uint8.
        caption: the caption that was drawn.
        caption_keys: keys of all captions of the row, that of the drawn one first.
        index: position of the row in its source.
        group_key: key of its group, or NO_KEY.
        label: class, or -1.
        bad_rows: rows that were drawn first and could not be decoded.
        sibling: the row's reserved caption, which is never drawn for training, or None; see `reserved_caption`.
        caption_number, sibling_number: their places among the captions of the row.
        position: of a stream, where its reader stands after this item.
    """

    image: Tensor
    caption: str
    caption_keys: list[int]
    index: int
    group_key: int = NO_KEY
    label: int = -1
    bad_rows: list[BadRow] = field(default_factory=list)
    sibling: str | None = None
    caption_number: int = 0
    sibling_number: int = 0
    position: ReaderPosition | None = None

    def belonging_to(self, index: int, group: str | None, label: int | None) -> PairItem:
        """The same item, told which row, group and class it is of."""
        self.index = index
        self.group_key = text_key(group) if group is not None else NO_KEY
        self.label = label if label is not None else -1
        return self


def item_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed for one item of one epoch."""
    packed = struct.pack("<QQQ", seed & (2**64 - 1), epoch & (2**64 - 1), index & (2**64 - 1))
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers on the CPU start from a seed inside, and go on as if nothing had been outside."""
    # As torch.random.fork_rng does, at a tenth of its cost and without touching CUDA from a worker.
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def make_item(
    image: bytes | Path | NDArray[np.uint8],
    captions: list[str],
    transform: Transform,
    rng: random.Random,
    max_pixels: int,
    caption_number: int | None = None,
    reserved: int | None = None,
    draft_side: int | None = None,
) -> PairItem:
    """Decode and transform a picture and choose a caption; DataError if the picture cannot be decoded."""
    picture = image if isinstance(image, np.ndarray) else decode_image(image, max_pixels, draft_side)
    keys = [caption_key(caption) for caption in captions]
    if caption_number is None or caption_number == reserved:
        others = [number for number in range(len(captions)) if number != reserved]
        caption_number = others[rng.randrange(len(others))] if len(others) > 1 else others[0]
    keys.insert(0, keys.pop(caption_number))
    with seeded(rng.getrandbits(63)):
        pixels = transform(picture)
    sibling = None if reserved is None else captions[reserved]
    item = PairItem(pixels, captions[caption_number], keys, index=-1, sibling=sibling)
    item.caption_number, item.sibling_number = caption_number, reserved or 0
    return item


def reserved_caption(row: int, captions: list[str]) -> int | None:
    """Number of the caption that is kept from training, so that it tells how an unseen match scores.

    One row in RESERVED_ONE_IN keeps one, if three different captions remain or two and it; else None.
    """
    if row % RESERVED_ONE_IN or len(captions) < 3:
        return None
    keys = [caption_key(caption) for caption in captions]
    single = [number for number, key in enumerate(keys) if keys.count(key) == 1]
    return single[row // RESERVED_ONE_IN % len(single)] if single and len(set(keys)) > 2 else None


def bad_row(source: PairSource, i: int, reason: str) -> BadRow:
    """Row i of a source as a bad row, told by the file that it stands in."""
    file = source.file(i) if isinstance(source, RowSource) else source.name
    return BadRow(file, source.row_number(i), reason)


class PairDataset(Dataset[PairItem]):
    """Items of a source, each a pure function of (seed, epoch, index).

    The order and number of workers, and where a run was resumed, therefore change nothing. A row whose picture
    cannot be decoded is replaced by another one, drawn by the same random numbers, and reported in the item.

    Args:
        source: the pairs.
        transform: picture to uint8 tensor; its randomness must come from torch.
        seed: of everything random.
        caption_sampling: "random" = an item is a row, with one of its captions; "all" = every pair of a row and
            one of its captions is an item.
        max_image_pixels: pictures that claim more are bad rows.
        reserve_captions: keep one caption of some rows from training and put it beside; see `reserved_caption`.
        draft_side: shorter side that JPEGs may be decoded at; see `decode_image`.
        cache: pictures that are decoded already, in place of the source's.
    """

    def __init__(
        self,
        source: PairSource,
        transform: Transform,
        *,
        seed: int = 0,
        caption_sampling: Literal["random", "all"] = "random",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
        reserve_captions: bool = False,
        draft_side: int | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        if caption_sampling not in ("random", "all"):
            raise ConfigError(f"caption_sampling = {caption_sampling!r}: choose random or all")
        if not source.columns.captions:
            raise DataError(f"{source.name}: has no captions to train on (set data.caption_column)")
        self.source, self.transform, self.seed = source, transform, seed
        self.max_image_pixels = max_image_pixels
        self.reserve_captions = reserve_captions
        self.draft_side, self.cache = draft_side, cache
        self._first_item = _first_items(source) if caption_sampling == "all" else None
        self._known_bad: dict[int, BadRow] = {}

    def __len__(self) -> int:
        """Number of items: rows, or pairs if every caption is an item."""
        return len(self.source) if self._first_item is None else int(self._first_item[-1])

    def __getitem__(self, draw: Draw) -> PairItem:
        rng = random.Random(item_seed(self.seed, draw.epoch, draw.index))
        row, caption = self._row_and_caption(draw.index)
        bad_rows: list[BadRow] = []
        for _ in range(MAX_REPLACEMENTS + 1):
            try:
                item = self._item(row, caption, rng)
            except DamagedCache:
                raise
            except DataError as error:
                bad_rows.append(self._remember(row, str(error)))
                row, caption = rng.randrange(len(self.source)), None
            else:
                item.bad_rows = bad_rows
                return item
        last = bad_rows[-1]
        raise DataError(
            f"{self.source.name}: {len(bad_rows)} rows drawn one after another are bad, the last ({last.source}, "
            f"row {last.row}): {last.reason}"
        )

    def _row_and_caption(self, index: int) -> tuple[int, int | None]:
        if self._first_item is None:
            return index, None
        row = int(np.searchsorted(self._first_item, index, side="right")) - 1
        return row, index - int(self._first_item[row])

    def _item(self, row: int, caption: int | None, rng: random.Random) -> PairItem:
        if row in self._known_bad:
            # Not decoded again: a slow failure would come back each epoch.
            raise DataError(self._known_bad[row].reason)
        source = self.source
        image = source.image(row) if self.cache is None else self.cache.get(row)
        captions = source.captions(row)
        reserved = reserved_caption(row, captions) if self.reserve_captions else None
        item = make_item(
            image, captions, self.transform, rng, self.max_image_pixels, caption, reserved, self.draft_side
        )
        return item.belonging_to(row, source.group(row), source.label(row))

    def _remember(self, row: int, reason: str) -> BadRow:
        return self._known_bad.setdefault(row, bad_row(self.source, row, reason))


def _first_items(source: PairSource) -> NDArray[np.int64]:
    """(n + 1,) number of the first item of each row, where every caption is an item."""
    if isinstance(source, RowSource):
        counts = source.caption_counts()
    else:
        counts = np.array([len(source.captions(i)) for i in range(len(source))], dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts)])
