"""Pictures made worse on purpose, as cameras, networks and phones do it: for measuring what a model still sees."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from mmcontrast.data.dataset import item_seed
from mmcontrast.data.rows import PairSource
from mmcontrast.errors import DataError
from mmcontrast.preprocess import MAX_IMAGE_PIXELS, decode_image

Corrupt = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _jpeg(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file, formats=["JPEG"]).convert("RGB")


def _blur(image: Image.Image, share: float, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def _noise(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((pixels + 255 * deviation * noise).round().clip(0, 255).astype(np.uint8))


def _crop(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    width, height = (max(1, round(share * side)) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _darkness(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {
    "jpeg": (_jpeg, (25, 10, 5)),
    "blur": (_blur, (0.005, 0.01, 0.02)),
    "noise": (_noise, (0.08, 0.18, 0.38)),
    "crop": (_crop, (0.8, 0.6, 0.4)),
    "darkness": (_darkness, (0.6, 0.35, 0.15)),
}
"""{name: (function, its strength at severity 1, 2, 3)}.

jpeg: quality. blur: sigma of a Gaussian as a share of the shorter side. noise: deviation of Gaussian noise, pixels
being 0 to 1 (severities 1, 3 and 5 of Hendrycks & Dietterich 2019). crop: share of each side that is kept, at a random
place. darkness: factor of all pixels.
"""
SEVERITIES = (1, 2, 3)


def corrupt(image: Image.Image, name: str, severity: int, rng: np.random.Generator) -> Image.Image:
    """An RGB picture made worse; the crop is smaller, all else keeps its size.

    Args:
        image: any size.
        name: of CORRUPTIONS.
        severity: of SEVERITIES.
        rng: of what is random in noise and crop.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise DataError(
            f"corruption {name!r} at severity {severity} is unknown: choose of {', '.join(CORRUPTIONS)} at 1, 2 or 3"
        )
    function, strengths = CORRUPTIONS[name]
    return function(image, strengths[severity - 1], rng)


class CorruptedSource:
    """A `PairSource` whose pictures are made worse, each by random numbers of its own.

    A picture whose shorter side is over `side` is scaled down to it first, so that a severity means the same for large
    pictures and small ones: noise of single pixels would vanish when a large one is scaled down by the model.

    Args:
        source: gives everything but the pictures.
        name: of CORRUPTIONS.
        severity: of SEVERITIES.
        side: in pixels, that of the model's input.
        seed: with the row it decides on noise and crop, whatever the order and number of workers.
        max_image_pixels: larger pictures count as undecodable.
    """

    def __init__(
        self,
        source: PairSource,
        name: str,
        severity: int,
        side: int,
        *,
        seed: int = 0,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.name, self.columns, self.label_names = source.name, source.columns, source.label_names
        self.bad_rows = source.bad_rows
        self._source, self._corruption, self._severity, self._side = source, name, severity, side
        self._seed, self._max_pixels = seed, max_image_pixels

    def __len__(self) -> int:
        return len(self._source)

    def image(self, i: int) -> bytes | Path:
        """The corrupted picture, without loss.

        Raises:
            DataError: it cannot be decoded.
        """
        image = _at_most(decode_image(self._source.image(i), self._max_pixels), self._side)
        rng = np.random.default_rng(item_seed(self._seed, list(CORRUPTIONS).index(self._corruption), i))
        file = io.BytesIO()
        corrupt(image, self._corruption, self._severity, rng).save(file, "BMP")
        return file.getvalue()

    def captions(self, i: int) -> list[str]:
        """As of the source."""
        return self._source.captions(i)

    def label(self, i: int) -> int | None:
        """As of the source."""
        return self._source.label(i)

    def group(self, i: int) -> str | None:
        """As of the source."""
        return self._source.group(i)

    def row_number(self, i: int) -> int:
        """As of the source."""
        return self._source.row_number(i)


def _at_most(image: Image.Image, side: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (math.ceil(side * length / shorter) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
