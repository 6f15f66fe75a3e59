"""A data set embedded once, for all tasks over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcontrast.data.kept_pictures import KeptPictures
from mmcontrast.data.keys import normalise_caption
from mmcontrast.data.rows import PairSource
from mmcontrast.embedding import Advance, Encoder, embed_images, embed_texts
from mmcontrast.errors import DataError
from mmcontrast.evaluation.feature_memory import FeatureMemory
from mmcontrast.evaluation.positives import PositiveKeys, caption_keys, check_rule, id_keys, value_keys
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.types import BadRow


@dataclass(frozen=True)
class EmbeddedData:
    """n pictures and their m captions, embedded.

    Attributes:
        name: of the source.
        image_features: (n, d) float32.
        positions: (n,) int64, position of each picture in the source.
        text_features: (m, d) float32; (0, d) when no task needed them.
        captions: m, in the order of the pictures.
        text_images: (m,) int64, the picture (0..n-1) of each caption.
        labels: n, None where a row has none.
        groups: n, None where a row has none.
        label_names: as the data set spells them, or None.
        bad_rows: pictures that could not be decoded; they and their captions take no part.
    """

    name: str
    image_features: Tensor
    positions: Tensor
    text_features: Tensor
    captions: list[str]
    text_images: Tensor
    labels: list[int | None]
    groups: list[str | None]
    label_names: list[str] | None
    bad_rows: list[BadRow]

    def positive_keys(self, rule: str) -> PositiveKeys:
        """Who is a positive of whom: by "id", "caption", "group" or "label"."""
        check_rule(rule)
        if rule == "id":
            return id_keys(self.text_images, len(self.positions))
        if rule == "caption":
            return caption_keys(self.text_images, list(map(normalise_caption, self.captions)), len(self.positions))
        values: Sequence[int | str | None] = self.groups if rule == "group" else self.labels
        if all(value is None for value in values):
            raise DataError(f"{self.name}: positives by {rule} need a {rule} column, and it has none")
        return value_keys(self.text_images, values)

    def take(self, rows: Tensor) -> EmbeddedData:
        """Only the (k,) pictures `rows`, ascending, with their captions."""
        place = torch.full((len(self.positions),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        texts = (place[self.text_images] >= 0).nonzero().flatten()
        return replace(
            self,
            image_features=self.image_features[rows],
            positions=self.positions[rows],
            text_features=self.text_features[texts],
            captions=[self.captions[j] for j in texts.tolist()],
            text_images=place[self.text_images[texts]],
            labels=[self.labels[i] for i in rows.tolist()],
            groups=[self.groups[i] for i in rows.tolist()],
        )


def select_rows(data: EmbeddedData, pictures: Tensor, captions: Tensor) -> EmbeddedData:
    """Some pictures and some of their captions as a data set of their own.

    Args:
        data: all of them.
        pictures: (k,) int64, ascending.
        captions: (j,) int64, ascending; each of one of these pictures.
    """
    place = torch.full((len(data.positions),), -1)
    place[pictures] = torch.arange(len(pictures))
    rows = pictures.tolist()
    return replace(
        data,
        image_features=data.image_features[pictures],
        positions=data.positions[pictures],
        text_features=data.text_features[captions],
        captions=[data.captions[caption] for caption in captions.tolist()],
        text_images=place[data.text_images[captions]],
        labels=[data.labels[row] for row in rows],
        groups=[data.groups[row] for row in rows],
    )


def embed_data(
    encoder: Encoder,
    source: PairSource,
    *,
    texts: bool = True,
    needed_by: str = "retrieval",
    batch_size: int = 256,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    progress: Advance | None = None,
    kept: KeptPictures | None = None,
    memory: FeatureMemory | None = None,
    together: bool = False,
) -> EmbeddedData:
    """Embed a source once for all tasks; the captions only if `texts`, for the tasks `needed_by`.

    The other arguments are as for `embed_images`, `embed_texts`.
    """
    memory = memory or FeatureMemory()
    images = memory.images(
        source,
        (batch_size, max_image_pixels),
        lambda: embed_images(
            encoder,
            source,
            batch_size=batch_size,
            workers=workers,
            max_image_pixels=max_image_pixels,
            progress=progress,
            kept=kept,
            together=together,
        ),
    )
    positions: list[int] = images.positions.tolist()
    own = [source.captions(position) for position in positions] if texts else []
    captions = [caption for row in own for caption in row]
    features = torch.empty(0, images.features.shape[1])
    if texts:
        if not captions:
            raise DataError(f"{source.name}: {needed_by} needs captions, and it has none")
        features = memory.texts(
            captions,
            batch_size,
            lambda: embed_texts(encoder, captions, batch_size=batch_size, progress=progress, together=together),
        )
    return EmbeddedData(
        name=source.name,
        image_features=images.features,
        positions=images.positions,
        text_features=features,
        captions=captions,
        text_images=torch.tensor([i for i, row in enumerate(own) for _ in row], dtype=torch.int64),
        labels=[source.label(position) for position in positions],
        groups=[source.group(position) for position in positions],
        label_names=source.label_names,
        bad_rows=images.bad_rows,
    )
