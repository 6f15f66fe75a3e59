"""Pictures for a model card, with the captions that the model finds for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmcontrast.data import PairSource
from mmcontrast.data.sources import SCENES
from mmcontrast.errors import DataError
from mmcontrast.export.card_facts import ExamplePicture
from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import decode_image
from mmcontrast.report.gallery import encode_thumbnail

COUNT = 6
ROWS = 200
"""Rows whose captions are searched."""


def may_be_shown(name: str, wanted: bool | None) -> bool:
    """Whether a data set's pictures go on the card: as asked for, else only those that we drew ourselves."""
    return name.startswith(SCENES) if wanted is None else wanted


def example_pictures(
    model: DualEncoder, source: PairSource, *, count: int = COUNT, rows: int = ROWS, seed: int = 0
) -> tuple[Sequence[ExamplePicture], int]:
    """Pictures drawn at random, and the best caption for each among those of up to `rows` rows.

    Returns:
        The examples, and how many captions were searched. None where no picture can be decoded or none has a caption.
    """
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:rows].tolist()
    pairs = [(row, caption) for row in order for caption in source.captions(row)]
    captions = list(dict.fromkeys(caption for _, caption in pairs))
    shown = {}
    for row in (row for row in order if source.captions(row)):
        try:
            shown[row] = decode_image(source.image(row))
        except (DataError, OSError):
            continue
        if len(shown) == count:
            break
    if not shown:
        return [], 0
    cosines = (model.encode_image(list(shown.values())) @ model.encode_text(captions).T).cpu()
    found = []
    for (row, picture), scores in zip(shown.items(), cosines, strict=True):
        best = int(scores.argmax())
        own = source.captions(row)
        hit = captions[best] in own
        found.append(ExamplePicture(encode_thumbnail(picture), own[0], captions[best], float(scores[best]), hit))
    return found, len(captions)
