"""Pictures and captions of a data set to features, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mmcontrast import distributed
from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.loader import image_loader
from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, ImagePreprocess
from mmcontrast.types import BadRow

Advance = Callable[[int], object]
"""Told how many more pictures or captions are done; a progress bar's `advance`."""


class Encoder(Protocol):
    """What is needed of a `DualEncoder`."""

    preprocess: ImagePreprocess

    def encode_image(self, images: Tensor, /) -> Tensor:
        """(b, 3, h, w) uint8 to (b, d)."""
        ...

    def encode_text(self, texts: list[str], /) -> Tensor:
        """b strings to (b, d)."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of nn.Module."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As of nn.Module."""
        ...


class EmbeddedImages(NamedTuple):
    """Features of the pictures that could be decoded.

    Attributes:
        features: (n, d) float32 on the CPU, in the order of the source.
        positions: (n,) int64, position of each in the source.
        bad_rows: those that could not be decoded.
    """

    features: Tensor
    positions: Tensor
    bad_rows: list[BadRow]


def embed_images(
    encoder: Encoder,
    source: PairSource,
    *,
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
    kept: KeptPictures | None = None,
    together: bool = False,
) -> EmbeddedImages:
    """Embed the pictures of a source, on the encoder's device (inside the caller's autocast, if any).

    Args:
        encoder: put into eval mode, and back into the modes it had.
        source: undecodable pictures are left out and reported.
        batch_size: pictures at a time.
        workers: processes that decode.
        max_image_pixels: larger pictures count as undecodable.
        progress: called with the number of pictures done after each batch.
        kept: decoded pictures of an earlier call, and a place for them; None decodes anew.
        together: all ranks call this and share the batches out; each returns all features, bit for bit as one would.

    Raises:
        DataError: not one picture could be decoded.
    """
    features, positions = torch.empty(0, 0), torch.empty(len(source), dtype=torch.int64)
    bad_rows: list[BadRow] = []
    done = 0
    share = _share(together)
    with evaluating(encoder):
        for batch in image_batches(encoder, source, batch_size, workers, max_image_pixels, progress, kept, share):
            bad_rows += batch.bad_rows
            if not len(batch.features):  # of unknown width, when not one of them could be decoded
                continue
            if not done:
                features = torch.empty(len(source), batch.features.shape[1])
            stop = done + len(batch.features)
            features[done:stop], positions[done:stop] = batch.features, batch.positions
            done = stop
    found = EmbeddedImages(features[:done], positions[:done], bad_rows)
    if share[1] > 1:
        found = _of_all_ranks(found, len(source), next(encoder.parameters()).device)
    check_any(len(found.features), source, found.bad_rows)
    return found


def _share(together: bool) -> tuple[int, int]:
    """This rank's of the batches: every so-manyth from which on."""
    return (distributed.rank(), distributed.world_size()) if together else (0, 1)


def _of_all_ranks(found: EmbeddedImages, rows: int, device: torch.device) -> EmbeddedImages:
    """What all ranks found, in the order of the source: each row was one rank's, so adding zeros puts them together."""
    width = int(distributed.all_reduce(torch.tensor(found.features.shape[1], device=device), "max"))
    features, there = torch.zeros(rows, width), torch.zeros(rows)
    features[found.positions], there[found.positions] = found.features.reshape(len(found.positions), width), 1.0
    features, there = (distributed.all_reduce(part.to(device), "sum").cpu() for part in (features, there))
    positions = there.nonzero().squeeze(1)
    bad_rows = sorted(distributed.gather_lists(found.bad_rows), key=lambda row: (row.source, row.row))
    return EmbeddedImages(features[positions], positions, bad_rows)


def embed_texts(
    encoder: Encoder,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    progress: Advance | None = None,
    together: bool = False,
) -> Tensor:
    """Embed captions, the same ones only once, so that equal captions get equal features to the last bit.

    Args:
        encoder: put into eval mode, and back into the modes it had.
        captions: m strings, in any order: they are sorted by length inside, for less padding.
        batch_size: different captions at a time.
        progress: called with the number of captions done after each batch.
        together: as for `embed_images`.

    Returns:
        (m, d) float32 on the CPU, in the order of `captions`.
    """
    if not captions:
        raise DataError("no captions to embed")
    distinct = sorted(set(captions), key=lambda caption: (-len(caption), caption))  # the longest first: it may not fit
    place = {caption: i for i, caption in enumerate(distinct)}
    rows = torch.tensor([place[caption] for caption in captions])
    repeats = rows.bincount()
    features = torch.empty(0, 0)
    share = _share(together)
    with evaluating(encoder):
        for part, batch in _text_batches(encoder, distinct, batch_size, share):
            if not len(features):
                features = torch.zeros(len(distinct), batch.shape[1])
            features[part] = batch.float().cpu()
            if progress:
                progress(int(repeats[part].sum()))
    if share[1] > 1:
        device = next(encoder.parameters()).device
        width = int(distributed.all_reduce(torch.tensor(features.shape[1], device=device), "max"))
        own = features if len(features) else torch.zeros(len(distinct), width)  # fewer batches than ranks
        features = distributed.all_reduce(own.to(device), "sum").cpu()
    return features[rows]


def _text_batches(
    encoder: Encoder, captions: list[str], batch_size: int, share: tuple[int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """Features on the encoder's device, each when the next batch is under way: a GPU works while we tokenize."""
    waiting: tuple[slice, Tensor] | None = None
    for start in range(share[0] * batch_size, len(captions), share[1] * batch_size):
        part = slice(start, start + batch_size)
        with torch.inference_mode():
            batch = encoder.encode_text(captions[part])
        if waiting is not None:
            yield waiting
        waiting = part, batch
    if waiting is not None:
        yield waiting


def image_batches(
    encoder: Encoder,
    source: PairSource,
    batch_size: int,
    workers: int,
    max_image_pixels: int,
    progress: Advance | None,
    kept: KeptPictures | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[EmbeddedImages]:
    """The batches of `embed_images`, one by one; the caller sees to the encoder's mode (`evaluating`)."""
    device = next(encoder.parameters()).device
    load = image_loader if kept is None else kept.batches
    waiting: EmbeddedImages | None = None
    for pixels, positions, bad_rows in load(
        source, encoder.preprocess, batch_size, workers, max_image_pixels=max_image_pixels, share=share
    ):
        features = torch.empty(0, 0)
        if len(pixels):
            with torch.inference_mode():  # not around the yield: it would leak into the caller
                features = encoder.encode_image(pixels.to(device, non_blocking=True))
        # A GPU gets its next batch before the features of the last one are waited for.
        if waiting is not None:
            yield _fetched(waiting, progress)
        waiting = EmbeddedImages(features, positions, bad_rows)
    if waiting is not None:
        yield _fetched(waiting, progress)


def _fetched(batch: EmbeddedImages, progress: Advance | None) -> EmbeddedImages:
    features = batch.features.float().cpu()
    if progress:
        progress(len(features) + len(batch.bad_rows))
    return EmbeddedImages(features, batch.positions, batch.bad_rows)


@contextmanager
def evaluating(encoder: Encoder) -> Iterator[None]:
    """Eval mode, and afterwards each module's own mode again: a locked tower stays in eval mode while training."""
    modes = [(module, module.training) for module in encoder.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_any(num_images: int, source: PairSource, bad_rows: list[BadRow]) -> None:
    """Raise DataError when no picture of the source could be decoded."""
    if not num_images:
        why = f"; row {bad_rows[0].row}: {bad_rows[0].reason}" if bad_rows else ""
        raise DataError(f"{source.name}: none of its {len(source)} pictures could be decoded{why}")
