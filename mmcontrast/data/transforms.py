"""From a decoded picture to the pixels of one training view."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mmcontrast.errors import ConfigError
from mmcontrast.preprocess import ImagePreprocess, to_tensor

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float64)
_MAX_LOG_RATIO = math.log(4 / 3)
_DRAWS = 16


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

    The crop and the colours are done by Pillow in one pass each, which is several times faster on small pictures
    than the transforms of torchvision; what follows are torchvision v2 functionals on the small tensor. Any
    callable from picture to uint8 tensor, such as a torchvision v2 `Compose`, can take its place.
    """

    def __init__(self, preprocess: ImagePreprocess, strength: Strength, rotate90: bool = False) -> None:
        self.preprocess, self.strength, self.rotate90 = preprocess, strength, rotate90

    def __call__(self, image: Image.Image) -> Tensor:
        """One view of the picture."""
        s, size = self.strength, self.preprocess.image_size
        u: list[float] = torch.rand(_DRAWS).tolist()  # all chances in one call: each costs some microseconds
        if s.crop_scale_min is None:
            pixels = self.preprocess.pixels(image)
        else:
            box = crop_box(image.width, image.height, s.crop_scale_min, u[0], u[1], u[2], u[3])
            resampling = _RESAMPLING[self.preprocess.interpolation]
            image = image.resize((size, size), resampling, box=box, reducing_gap=2.0)
            if s.jitter or s.grey:
                image = self._recolour(image, u[4:9])
            pixels = to_tensor(image)
        if s.flip and u[9] < 0.5:
            pixels = F.horizontal_flip(pixels)
        if self.rotate90:
            pixels = torch.rot90(pixels, int(u[10] * 4), (1, 2))
        if u[11] < s.erase:
            pixels = _erase(pixels, u[12:16])
        return pixels.contiguous()

    def _recolour(self, image: Image.Image, u: list[float]) -> Image.Image:
        jitter = self.strength.jitter
        brightness, contrast, saturation = (1 + jitter * (2 * x - 1) for x in u[:3])
        if u[4] < self.strength.grey:
            saturation = 0.0
        matrix = colour_matrix(brightness, contrast, saturation, hue_turn=0.2 * jitter * (2 * u[3] - 1))
        # Contrast pulls towards the mean colour's brightness, as torchvision has it.
        mean = np.asarray(image.reduce(image.size))[0, 0]  # (3,)
        pivot = brightness * (1 - contrast) * float(np.dot(_LUMA, mean))
        rows = [(*row, pivot) for row in matrix.tolist()]
        return image.convert("RGB", tuple(value for row in rows for value in row))


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


def _erase(pixels: Tensor, u: list[float]) -> Tensor:
    """Fill a rectangle of 2 to 20 % of the area with mid grey."""
    height, width = pixels.shape[-2:]
    area, ratio = 0.02 + 0.18 * u[0], math.exp(math.log(3) * (2 * u[1] - 1))
    h = max(1, min(height, round(height * math.sqrt(area * ratio))))
    w = max(1, min(width, round(width * math.sqrt(area / ratio))))
    top, left = int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1))
    grey = torch.tensor(128, dtype=torch.uint8)
    erased: Tensor = F.erase(pixels, top, left, h, w, grey)
    return erased
