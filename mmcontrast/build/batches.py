"""Training data of a run, from the config: loader, order and augmentation."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mmcontrast import distributed
from mmcontrast.build.guidance import ClusterSource, Guidance, Probability
from mmcontrast.build.map_batches import MapBatches
from mmcontrast.build.reading import caption_table, image_cache
from mmcontrast.build.stream_batches import StreamBatches
from mmcontrast.config import Config, total_steps
from mmcontrast.data import (
    GlobalBatchSampler,
    PairDataset,
    PairSource,
    PairStream,
    StreamDataset,
    StreamLoader,
    train_loader,
    train_transform,
)
from mmcontrast.data.exclusion import source_keys
from mmcontrast.data.transforms import TrainTransform
from mmcontrast.models import DualEncoder

__all__ = ["MapBatches", "StreamBatches", "make_batches"]

SIBLING_SHARE = 0.125
"""For which share of a batch's rows the calibrator gets a reserved caption, at most."""

MAX_KEYED_ROWS = 2_000_000
"""Rows up to which duplicates are kept apart by the captions of all rows; the loss knows those in a batch anyway."""


def make_batches(
    config: Config,
    source: PairSource | PairStream,
    model: DualEncoder,
    *,
    siblings: bool = False,
    clusters: ClusterSource | None = None,
    probability: Probability | None = None,
    start_step: int = 0,
    console: Console | None = None,
) -> MapBatches | StreamBatches:
    """Loader, sampler and augmentation of the training pairs.

    Args:
        config: of the run.
        source: the pairs.
        model: its preprocessing and tokenizer.
        siblings: whether some rows keep a caption from training and bring it along for the calibrator.
        clusters: by which batches are guided; None for a plain shuffle.
        probability: that two rows match after all; see `Guidance`.
        start_step: from which on batches are guided.
        console: where the progress of tokenizing and of the image cache is shown; None for nowhere.
    """
    data = config.data
    transform = train_transform(
        model.preprocess,
        data.augmentation,
        crop_scale_min=data.crop_scale_min,
        horizontal_flip=data.horizontal_flip,
        rotate90=data.rotate90,
    )
    guidance = None
    if clusters is not None:
        guidance = _guidance(config, source, clusters, probability, start_step)
    if isinstance(source, PairStream):
        return _stream_batches(config, source, model, transform, siblings, guidance)
    return _map_batches(config, source, model, transform, siblings, guidance, console or Console(quiet=True))


def _map_batches(
    config: Config,
    source: PairSource,
    model: DualEncoder,
    transform: TrainTransform,
    siblings: bool,
    guidance: Guidance | None,
    console: Console,
) -> MapBatches:
    data, training = config.data, config.training
    dataset = PairDataset(
        source,
        transform,
        seed=training.seed,
        caption_sampling=data.caption_sampling,
        max_image_pixels=data.max_image_pixels,
        reserve_captions=siblings,
        draft_side=transform.draft_side if data.draft_decoding else None,
        cache=image_cache(config, source, transform, console),
    )
    sampler = GlobalBatchSampler(
        len(dataset),
        training.global_batch_size,
        seed=training.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    draws = total_steps(config, len(dataset)) * training.global_batch_size
    loader = train_loader(
        dataset,
        sampler,
        model.tokenizer,
        data.workers,
        sibling_share=SIBLING_SHARE if siblings else None,
        table=caption_table(config, source, model, draws, console),
    )
    return MapBatches(loader, sampler, len(source), guidance)


def _stream_batches(
    config: Config,
    source: PairStream,
    model: DualEncoder,
    transform: TrainTransform,
    siblings: bool,
    guidance: Guidance | None,
) -> StreamBatches:
    data, training = config.data, config.training
    world_size = distributed.world_size()
    stream = StreamDataset(
        source,
        transform,
        seed=training.seed,
        shuffle_buffer=max(1, data.shuffle_buffer // max(1, data.workers)),
        readers=data.stream_readers,
        rank=distributed.rank(),
        world_size=world_size,
        repeat=True,
        max_image_pixels=data.max_image_pixels,
        reserve_captions=siblings,
        draft_side=transform.draft_side if data.draft_decoding else None,
    )
    local_batch = training.global_batch_size // world_size
    loader = StreamLoader(
        stream, local_batch, model.tokenizer, data.workers, sibling_share=SIBLING_SHARE if siblings else None
    )
    return StreamBatches(loader, stream, guidance)


def _guidance(
    config: Config,
    source: PairSource | PairStream,
    clusters: ClusterSource,
    probability: Probability | None,
    start_step: int,
) -> Guidance:
    cluster, training = config.negatives.cluster, config.training
    every, min_coverage, item_rows, keys = cluster.refresh_every_steps, 0.5, None, None
    if isinstance(source, PairStream):
        # A stream has no epochs, and may have fewer rows than the clusters have places.
        every = every or max(1, len(clusters.ids) // training.global_batch_size)
        min_coverage = 0.0
    else:
        item_rows = _item_rows(source) if config.data.caption_sampling == "all" else None
        if len(source) <= MAX_KEYED_ROWS:
            keys = partial(source_keys, source, item_rows)
    return Guidance(
        clusters,
        share=cluster.share,
        group=cluster.group,
        seed=training.seed,
        start_step=start_step,
        refresh_every_steps=every,
        neighbours=cluster.neighbours,
        max_probability=cluster.max_probability,
        probability=probability,
        exclude_keys=keys,
        item_rows=item_rows,
        min_coverage=min_coverage,
    )


def _item_rows(source: PairSource) -> NDArray[np.int64]:
    """(m,) row of each item, where every pair of a row and one of its captions is one."""
    return np.repeat(np.arange(len(source)), [len(source.captions(i)) for i in range(len(source))])
