"""Batches made by worker processes."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmcontrast.data.caption_table import CaptionTable, Tokenize
from mmcontrast.data.collate import collate
from mmcontrast.data.dataset import PairDataset, PairItem, bad_row
from mmcontrast.data.rows import PairSource
from mmcontrast.data.sampler import GlobalBatchSampler
from mmcontrast.data.workers import lost_worker
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, ImagePreprocess, decode_image, stack_pictures
from mmcontrast.types import BadRow


class ImageBatch(NamedTuple):
    """Pictures of a source in order, without those that could not be decoded.

    Attributes:
        images: (n, 3, h, w) uint8; n is the batch size less the bad rows, so it can be 0.
        positions: (n,) int64 positions in the source.
        bad_rows: the rows left out.
    """

    images: Tensor
    positions: Tensor
    bad_rows: list[BadRow]


def train_loader(
    dataset: PairDataset,
    sampler: GlobalBatchSampler,
    tokenize: Tokenize,
    workers: int = 0,
    *,
    prefetch: int = 2,
    sibling_share: float | None = None,
    table: CaptionTable | None = None,
) -> DataLoader[PairItem]:
    """Batches (`PairBatch`) of this rank, in the order of the sampler.

    Call `sampler.set_epoch` before each iteration; the workers stay alive between epochs.

    Args:
        dataset: the items.
        sampler: the batches.
        tokenize: captions to `Tokens`, called in the workers.
        workers: worker processes, at most as many as there are processors; 0 = none.
        prefetch: batches that each worker makes in advance.
        sibling_share: for which share of the rows of a batch a reserved caption comes along at most; None for none.
        table: token ids of all captions, in place of `tokenize`.
    """
    function = partial(collate, tokenize=tokenize, sibling_share=sibling_share, table=table)
    return worker_loader(dataset, function, workers, prefetch, batch_sampler=sampler)


def image_loader(
    source: PairSource,
    preprocess: ImagePreprocess,
    batch_size: int,
    workers: int = 0,
    *,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    share: tuple[int, int] = (0, 1),
) -> Iterable[ImageBatch]:
    """All pictures of a source in order, as the model sees them in evaluation.

    A share (k, of) is every so-manyth batch, from the kth on.
    """
    dataset = _ImageDataset(source, preprocess, max_image_pixels)
    function = partial(_collate_images, size=preprocess.image_size)
    starts = range(share[0] * batch_size, len(source), share[1] * batch_size)
    batches = [range(start, min(start + batch_size, len(source))) for start in starts]
    return worker_loader(dataset, function, workers, 2, batch_sampler=batches, persistent=False)


class _ImageDataset(Dataset[tuple[int, Tensor | BadRow]]):
    def __init__(self, source: PairSource, preprocess: ImagePreprocess, max_pixels: int) -> None:
        self.source, self.preprocess, self.max_pixels = source, preprocess, max_pixels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[int, Tensor | BadRow]:
        try:
            return i, self.preprocess.pixels(decode_image(self.source.image(i), self.max_pixels))
        except DataError as error:
            return i, bad_row(self.source, i, str(error))


def _collate_images(items: list[tuple[int, Tensor | BadRow]], size: int) -> ImageBatch:
    good = [(i, pixels) for i, pixels in items if isinstance(pixels, Tensor)]
    empty = torch.zeros((0, 3, size, size), dtype=torch.uint8)
    return ImageBatch(
        stack_pictures([pixels for _, pixels in good]) if good else empty,
        torch.tensor([i for i, _ in good], dtype=torch.int64),
        [row for _, row in items if isinstance(row, BadRow)],
    )


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_loader(
    dataset: Dataset[Any],
    function: Callable[[Any], Any],
    workers: int,
    prefetch: int,
    persistent: bool = True,
    pin: bool = True,
    **batching: Any,
) -> DataLoader[Any]:
    """A DataLoader whose batches of any items are the same with any number of workers."""
    workers = min(workers, available_processors())  # more only slows down, and torch warns of it
    options: dict[str, Any] = {}
    if workers:
        # Fast tokenizers warn when they were used before a fork; with workers, each needs one thread only.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        options = {
            "persistent_workers": persistent,
            "prefetch_factor": prefetch,
            "worker_init_fn": _start_worker,
            # Forked workers share the source's memory and start at once; newer Pythons would import all anew.
            "multiprocessing_context": "fork" if sys.platform == "linux" else None,
        }
    return _Loader(
        dataset,
        collate_fn=function,
        num_workers=workers,
        pin_memory=pin and torch.cuda.is_available(),
        generator=torch.Generator(),  # else each epoch would take a number from the global ones
        **options,
        **batching,
    )


class _Loader(DataLoader[Any]):
    """A DataLoader whose workers' `DataError`s arrive as they were raised: torch adds a whole traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            last_line = str(error).strip().splitlines()[-1]
            name = f"{type(error).__module__}.{type(error).__qualname__}: "
            raise type(error)(last_line.removeprefix(name)) from None
        except RuntimeError as error:
            if (lost := lost_worker(error)) is not None:
                raise lost from error
            raise


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and schedulers signal the whole process group: the trainer still needs its data to finish the step and
    # save. In a group of their own the workers end when the trainer tells them to, or when it is gone.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
