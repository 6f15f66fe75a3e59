"""Decoded pictures that stay in memory from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mmcontrast.data.loader import ImageBatch, image_loader
from mmcontrast.data.rows import PairSource
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, ImagePreprocess

_Key = tuple[PairSource, ImagePreprocess, int, int]


class KeptPictures:
    """The pictures of one source as a model sees them in evaluation: decoded once, if all of them fit.

    Batches that come from memory equal those that are decoded bit for bit, bad rows included.

    Args:
        max_bytes: pixels that may be kept; a larger set is decoded anew each time, and takes no memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._key: _Key | None = None
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._batches: list[ImageBatch] = []

    @property
    def kept_bytes(self) -> int:
        """What is in memory."""
        return self._pixels.numel()

    def batches(
        self,
        source: PairSource,
        preprocess: ImagePreprocess,
        batch_size: int,
        workers: int = 0,
        *,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> Iterable[ImageBatch]:
        """As `image_loader`; from memory where source, preprocessing, batch size and limit are those kept."""
        key = (source, preprocess, batch_size, max_image_pixels)
        if self._key is not None and self._key[0] is source and self._key[1:] == key[1:]:
            return self._batches
        decoded = image_loader(source, preprocess, batch_size, workers, max_image_pixels=max_image_pixels)
        needed = 3 * preprocess.image_size**2 * len(source)
        return self._keeping(decoded, key) if needed <= self.max_bytes else decoded

    def _keeping(self, decoded: Iterable[ImageBatch], key: _Key) -> Iterator[ImageBatch]:
        source, preprocess = key[:2]
        self._key, self._batches = None, []  # what was kept goes before its successor needs room
        shape = (len(source), 3, preprocess.image_size, preprocess.image_size)
        # One tensor, copied into: a worker's own tensor would hold shared memory and an open file each.
        self._pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        batches: list[ImageBatch] = []
        done = 0
        for batch in decoded:
            room: Tensor = self._pixels[done : done + len(batch.images)]
            room.copy_(batch.images)
            batches.append(ImageBatch(room, batch.positions.clone(), batch.bad_rows))
            done += len(batch.images)
            yield batch
        self._key, self._batches = key, batches
