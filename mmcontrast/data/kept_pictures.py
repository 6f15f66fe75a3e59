"""Decoded pictures that stay in memory from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mmcontrast.data.loader import ImageBatch, image_loader
from mmcontrast.data.rows import PairSource
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, ImagePreprocess

_Key = tuple[PairSource, ImagePreprocess, int, int, tuple[int, int]]


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
        share: tuple[int, int] = (0, 1),
    ) -> Iterable[ImageBatch]:
        """As `image_loader`; from memory where source, preprocessing, batch size, limit and share are those kept."""
        key = (source, preprocess, batch_size, max_image_pixels, share)
        if self._key is not None and self._key[0] is source and self._key[1:] == key[1:]:
            return self._batches
        decoded = image_loader(source, preprocess, batch_size, workers, max_image_pixels=max_image_pixels, share=share)
        needed = 3 * preprocess.image_size**2 * _most(len(source), batch_size, share)
        return self._keeping(decoded, key) if needed <= self.max_bytes else decoded

    def _keeping(self, decoded: Iterable[ImageBatch], key: _Key) -> Iterator[ImageBatch]:
        source, preprocess, batch_size, _, share = key
        self._key, self._batches = None, []  # what was kept goes before its successor needs room
        pictures = _most(len(source), batch_size, share)
        shape = (pictures, 3, preprocess.image_size, preprocess.image_size)
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


def _most(pictures: int, batch_size: int, share: tuple[int, int]) -> int:
    """Pictures of a share, or a few more."""
    batches = -(-pictures // batch_size)
    return min(pictures, -(-batches // share[1]) * batch_size)
