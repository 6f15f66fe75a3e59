"""Training data of a run: the batches of one epoch, from any batch of it on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from torch.utils.data import DataLoader

from mmcontrast import distributed
from mmcontrast.config import Config
from mmcontrast.data import (
    GlobalBatchSampler,
    PairDataset,
    PairItem,
    PairSource,
    PairStream,
    StreamDataset,
    stream_loader,
    train_loader,
    train_transform,
)
from mmcontrast.models import DualEncoder
from mmcontrast.types import PairBatch


class MapBatches:
    """Batches of a source with random access: what was done already is left out without reading it."""

    def __init__(self, loader: DataLoader[PairItem], sampler: GlobalBatchSampler, num_rows: int) -> None:
        self.loader = loader
        self.sampler = sampler
        self.num_rows: int | None = num_rows

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's share of each global batch of an epoch."""
        self.sampler.set_epoch(epoch, start_batch)
        # The loader reads its epoch's batches ahead, but never those of the next one.
        yield from self.loader


class StreamBatches:
    """Batches of an endless stream; to go on in its middle, what was done is read again and thrown away."""

    def __init__(self, loader: DataLoader[PairItem], dataset: StreamDataset) -> None:
        self.loader = loader
        self.dataset = dataset
        self.num_rows: int | None = None

    def epoch(self, epoch: int, start_batch: int) -> Iterator[PairBatch]:
        """This rank's batches: the whole run is one epoch, since a stream has no length."""
        self.dataset.set_epoch(epoch)
        yield from itertools.islice(self.loader, start_batch, None)


def make_batches(config: Config, source: PairSource | PairStream, model: DualEncoder) -> MapBatches | StreamBatches:
    """Loader, sampler and augmentation of the training pairs."""
    data, training = config.data, config.training
    transform = train_transform(
        model.preprocess,
        data.augmentation,
        crop_scale_min=data.crop_scale_min,
        horizontal_flip=data.horizontal_flip,
        rotate90=data.rotate90,
    )
    rank, world_size = distributed.rank(), distributed.world_size()
    if isinstance(source, PairStream):
        stream = StreamDataset(
            source,
            transform,
            seed=training.seed,
            shuffle_buffer=data.shuffle_buffer,
            rank=rank,
            world_size=world_size,
            repeat=True,
            max_image_pixels=data.max_image_pixels,
        )
        local_batch = training.global_batch_size // world_size
        return StreamBatches(stream_loader(stream, local_batch, model.tokenizer, data.workers), stream)
    dataset = PairDataset(
        source,
        transform,
        seed=training.seed,
        caption_sampling=data.caption_sampling,
        max_image_pixels=data.max_image_pixels,
    )
    sampler = GlobalBatchSampler(
        len(dataset), training.global_batch_size, seed=training.seed, rank=rank, world_size=world_size
    )
    return MapBatches(train_loader(dataset, sampler, model.tokenizer, data.workers), sampler, len(source))
