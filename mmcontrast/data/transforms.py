"""From a decoded picture to the pixels of one training view."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack

from mmcontrast.errors import ConfigError
from mmcontrast.preprocess import ImagePreprocess, colours_last, to_rgb

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)
_MAX_LOG_RATIO = math.log(4 / 3)
_DRAWS = 16
DRAFT_RESERVE = 1.2
"""How much larger than needed a JPEG has to stay to be decoded at a part of its size."""


@dataclass(frozen=True)
class Strength:
    """How strongly a picture is varied.

    Attributes:
        crop_scale_min: smallest share of the area that a random crop keeps; None = the evaluation crop.
        flip: mirror half of the pictures.
        jitter: largest relative change of brightness, contrast and saturation; a fifth of it in turns of hue.
        grey: probability of losing all colour.
        erase: probability of a grey rectangle.
    """

    crop_scale_min: float | None
    flip: bool = True
    jitter: float = 0.0
    grey: float = 0.0
    erase: float = 0.0


AUGMENTATIONS = {
    "none": Strength(None, flip=False),
    "light": Strength(0.8),
    "standard": Strength(0.5, jitter=0.2),
    "strong": Strength(0.3, jitter=0.4, grey=0.1, erase=0.25),
}


def train_transform(
    preprocess: ImagePreprocess,
    augmentation: str = "standard",
    *,
    crop_scale_min: float | None = None,
    horizontal_flip: bool = True,
    rotate90: bool = False,
) -> TrainTransform:
    """The transform of training pictures.

    Args:
        preprocess: of the image tower: size and interpolation.
        augmentation: "none", "light", "standard" or "strong".
        crop_scale_min: smallest share of the area that a random crop keeps, in place of the augmentation's own.
        horizontal_flip: False where left and right matter (texts, positions in captions).
        rotate90: turn by 0, 90, 180 or 270 degrees (aerial and microscopic pictures).
    """
    if augmentation not in AUGMENTATIONS:
        raise ConfigError(f"augmentation {augmentation!r} is unknown: choose one of {', '.join(AUGMENTATIONS)}")
    if crop_scale_min is not None and not 0 < crop_scale_min <= 1:
        raise ConfigError(f"crop_scale_min = {crop_scale_min} is no share of the area: it must be in (0, 1]")
    strength = AUGMENTATIONS[augmentation]
    if crop_scale_min is not None:
        strength = replace(strength, crop_scale_min=crop_scale_min)
    return TrainTransform(preprocess, replace(strength, flip=strength.flip and horizontal_flip), rotate90)


class TrainTransform:
    """An RGB picture to (3, image_size, image_size) uint8, varied by torch's global random numbers.

    The crop is resized by torch's kernel for bytes and the colours are turned in one product, both several times
    faster than Pillow or the transforms of torchvision. Any callable from picture to uint8 tensor, such as a
    torchvision v2 `Compose`, can take its place.
    """

    def __init__(self, preprocess: ImagePreprocess, strength: Strength, rotate90: bool = False) -> None:
        self.preprocess, self.strength, self.rotate90 = preprocess, strength, rotate90

    @property
    def least_side(self) -> int | None:
        """Shorter side at which the smallest crop has as many pixels as it is resized to.

        None where the picture is not varied but prepared as in evaluation, and so needed as it is.
        """
        scale_min = self.strength.crop_scale_min
        return None if scale_min is None else math.ceil(self.preprocess.image_size / math.sqrt(scale_min))

    @property
    def draft_side(self) -> int | None:
        """Shorter side that a JPEG may be decoded at: as `decode_image` wants it."""
        return None if self.least_side is None else math.ceil(DRAFT_RESERVE * self.least_side)

    def __call__(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """One view of a picture, or of its (h, w, 3) bytes."""
        s, size = self.strength, self.preprocess.image_size
        u: list[float] = torch.rand(_DRAWS).tolist()  # all chances in one call: each costs some microseconds
        if s.crop_scale_min is None:
            pixels = self.preprocess.pixels(image if isinstance(image, Image.Image) else Image.fromarray(image))
        else:
            whole = picture_bytes(image)
            box = crop_box(whole.shape[1], whole.shape[0], s.crop_scale_min, u[0], u[1], u[2], u[3])
            pixels = resized_crop(whole, box, (size, size), self.preprocess.interpolation)
            if s.jitter or s.grey:
                pixels = self._recolour(pixels, u[4:9])
        planes = pixels.numpy()
        if s.flip and u[9] < 0.5:
            planes = planes[..., ::-1]
        if self.rotate90:
            planes = np.rot90(planes, int(u[10] * 4), (1, 2))
        pixels = colours_last(planes)
        if u[11] < s.erase:
            _erase(pixels, u[12:16])
        return pixels

    def _recolour(self, pixels: Tensor, u: list[float]) -> Tensor:
        jitter = self.strength.jitter
        brightness, contrast, saturation = (1 + jitter * (2 * x - 1) for x in u[:3])
        if u[4] < self.strength.grey:
            saturation = 0.0
        matrix = colour_matrix(brightness, contrast, saturation, hue_turn=0.2 * jitter * (2 * u[3] - 1))
        # In numpy, whose product and conversion to bytes take a quarter of torch's time here.
        planes = np.empty(pixels.shape, np.float32)
        for plane, values in zip(planes, pixels.numpy(), strict=True):
            plane[...] = values
        colours = planes.reshape(3, -1)
        # Contrast pulls towards the mean colour's brightness, as torchvision has it.
        pivot = brightness * (1 - contrast) * float(_LUMA @ colours.mean(axis=1))
        turned = matrix.astype(np.float32) @ colours
        turned += np.float32(pivot + 0.5)
        np.clip(turned, 0, 255, out=turned)
        return torch.from_numpy(turned.astype(np.uint8).reshape(pixels.shape))


def picture_bytes(image: Image.Image | NDArray[np.uint8]) -> Tensor:
    """(h, w, 3) bytes, or (h, w, 4) of which the last ones mean nothing, without a copy where that is possible."""
    if not isinstance(image, Image.Image):
        return torch.from_numpy(image)
    image = image if image.mode == "RGB" else to_rgb(image)
    if hasattr(image, "__arrow_c_array__"):
        with suppress(ValueError):  # Pillow holds very large pictures in several pieces
            shared: Tensor = from_dlpack(pa.array(image).flatten())
            return shared.view(image.height, image.width, -1)
    return torch.from_numpy(np.array(image))


def resized_crop(
    picture: Tensor, box: tuple[float, float, float, float], size: tuple[int, int], interpolation: str
) -> Tensor:
    """(3, height, width): a box of (h, w, 3 or more) bytes, moved to whole pixels, resized with antialiasing.

    In memory the colours come last, as in the picture.
    """
    height, width = picture.shape[:2]
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    # A batch of one before it is cut: else torch does not see that colours are last, and turns them there and back.
    crop = picture[None, top:bottom, left:right].permute(0, 3, 1, 2)
    return F.interpolate(crop, size, mode=interpolation, antialias=True)[0, :3]


def crop_box(
    width: int, height: int, scale_min: float, u_scale: float, u_ratio: float, u_x: float, u_y: float
) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) within a picture, from four numbers in [0, 1).

    Its area is uniform in [scale_min, 1] of the picture's and its shape log-uniform in 3/4 to 4/3 of the picture's
    own; where a side would not fit, it is cut to the picture.
    """
    area = width * height * (scale_min + (1 - scale_min) * u_scale)
    ratio = math.exp(_MAX_LOG_RATIO * (2 * u_ratio - 1))
    box_width = min(width, math.sqrt(area * ratio * width / height))
    box_height = min(height, math.sqrt(area / ratio * height / width))
    left, top = (width - box_width) * u_x, (height - box_height) * u_y
    return left, top, min(width, left + box_width), min(height, top + box_height)


def colour_matrix(brightness: float, contrast: float, saturation: float, hue_turn: float) -> NDArray[np.float64]:
    """(3, 3) matrix that does brightness, contrast, saturation and hue to a colour at once.

    Contrast leaves out its constant part. The hue turns about the grey axis by `hue_turn` full circles.
    """
    angle = 2 * math.pi * hue_turn
    cos, sin = math.cos(angle), math.sin(angle) / math.sqrt(3)
    third = (1 - cos) / 3
    hue = np.array(
        [
            [cos + third, third - sin, third + sin],
            [third + sin, cos + third, third - sin],
            [third - sin, third + sin, cos + third],
        ]
    )
    saturate = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    matrix: NDArray[np.float64] = brightness * contrast * saturate @ hue
    return matrix


def _erase(pixels: Tensor, u: list[float]) -> None:
    """Fill a rectangle of 2 to 20 % of the area with mid grey."""
    height, width = pixels.shape[-2:]
    area, ratio = 0.02 + 0.18 * u[0], math.exp(math.log(3) * (2 * u[1] - 1))
    h = max(1, min(height, round(height * math.sqrt(area * ratio))))
    w = max(1, min(width, round(width * math.sqrt(area / ratio))))
    top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
    pixels[:, top : top + h, left : left + w] = 128
