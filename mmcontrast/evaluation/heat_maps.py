"""Where in a picture a text is: the cosines of its patches with the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from mmcontrast.embedding import evaluating
from mmcontrast.errors import DataError
from mmcontrast.models import DualEncoder
from mmcontrast.models.patch_features import patch_features


class HeatMaps(NamedTuple):
    """Of one picture.

    Attributes:
        patches: (t, rows, columns) float32, cosine of each text with each patch.
        whole: (t,) float32, cosine of each text with the picture.
    """

    patches: Tensor
    whole: Tensor


def heat_maps(model: DualEncoder, image: Image.Image, texts: Sequence[str]) -> HeatMaps:
    """Compare each patch of a picture with texts; see `mmcontrast.models.patch_features` for how patches are read.

    The model sees, and the maps cover, what its preprocess leaves of the picture.

    Raises:
        DataError: no text.
        ModelError: the image tower has no patches that stand for places.
    """
    if not texts or not all(text.strip() for text in texts):
        raise DataError("heat maps need at least one text, and none that is empty")
    with evaluating(model), torch.inference_mode():
        pixels = model.preprocess.batch([image])
        patches = patch_features(model, pixels)[0]  # (rows, columns, d)
        features = model.encode_text(list(texts)).to(patches.device)
        whole = model.encode_image(pixels)[0]
        return HeatMaps((patches @ features.T).permute(2, 0, 1).cpu(), (features @ whole).cpu())
