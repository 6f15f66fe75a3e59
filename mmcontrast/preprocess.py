"""From the bytes of a picture to the uint8 tensor that a model takes; shared by `data` and `models`."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mmcontrast.errors import DataError

MAX_IMAGE_PIXELS = 100_000_000
_WAYS = (("shortest", "squash"), ("bicubic", "bilinear"), ("even", "down"))
_LARGEST_SIDE = 4096  # of a model's input: far above what towers take, and a picture of it fits in memory
LONGEST = 200  # times the shorter side; what lies outside of the middle square is cut off in any case
# Only raster formats that Pillow decodes itself: PDF and EPS would start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, turned upright by its EXIF tag.

    16-bit greys are scaled to 8 bits (Pillow alone would clip them to white); an alpha channel is dropped as
    open_clip and transformers do, so that an exported model sees the same pixels.
    """
    with suppress(Exception):  # a damaged EXIF block says nothing; the picture is good
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        if image.mode != "I" or grey.max(initial=0) > 255:
            grey >>= 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it has to drop palette transparency
    return image.convert("RGB")


def decode_image(
    source: bytes | Path, max_pixels: int = MAX_IMAGE_PIXELS, least_side: int | None = None
) -> Image.Image:
    """Decode one picture to RGB.

    Args:
        source: the encoded picture, or its file.
        max_pixels: the most that it may claim.
        least_side: a JPEG may come out at 1/2, 1/4 or 1/8 of its size, which is decoded sooner, as long as its
            shorter side keeps so many pixels; None = whole. Other formats always come whole.

    Raises:
        DataError: the bytes are no picture, are cut off, or claim more than `max_pixels` pixels (seen in the
            header, before any decoding).
    """
    try:
        with warnings.catch_warnings():
            # Our own cap below speaks for Pillow's fixed one; damaged EXIF blocks are no reason to complain.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                _check_size(image, max_pixels)
                if least_side is not None and (scale := min(image.size) // least_side) > 1:
                    image.draft(None, (image.width // scale, image.height // scale))
                image.load()
                _check_size(image, max_pixels)  # icons turn out to be of another size than their header says
                return to_rgb(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise DataError("picture is a decompression bomb") from None
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them stumble over
        raise DataError(f"undecodable picture: {type(error).__name__}: {error}") from None


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(
            f"picture of {image.width} x {image.height} pixels is over the limit of {max_pixels} "
            "(data.max_image_pixels)"
        )


def header_size(source: bytes | Path) -> tuple[int, int]:
    """Width and height that a picture claims, without decoding it; DataError if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                return image.size
    except Exception as error:
        raise DataError(f"not a picture: {type(error).__name__}") from None


@dataclass(frozen=True)
class ImagePreprocess:
    """How a picture becomes the input of an image tower; saved with the model.

    Attributes:
        image_size: side of the square input, in pixels.
        mean, std: per-channel normalisation, of values in [0, 1].
        resize: "shortest" scales the short side and crops the centre; "squash" scales both sides.
        interpolation: of the resize.
        crop_rounding: where "shortest" crops when an odd number of pixels is left over: "even" starts at the even one
            of the two middle places, as torchvision and open_clip do; "down" at the first, as transformers does.
    """

    image_size: int
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_rounding: Literal["even", "down"] = "even"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImagePreprocess:
        """The inverse of `to_dict`, from JSON.

        Raises:
            ValueError, TypeError, KeyError: a field is unknown or missing, or its value none that it can have.
        """
        found = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        if type(found.image_size) is not int or found.image_size < 1:
            raise ValueError(f"image_size is {found.image_size!r}")
        if found.image_size > _LARGEST_SIDE:
            raise ValueError(f"image_size is {found.image_size:.6g}; at most {_LARGEST_SIDE} pixels are taken")
        for name in ("mean", "std"):
            numbers = getattr(found, name)
            if len(numbers) != 3 or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise ValueError(f"{name} is {numbers!r}, not three numbers")
        ways = (found.resize, found.interpolation, found.crop_rounding)
        if any(way not in known for way, known in zip(ways, _WAYS, strict=True)):
            raise ValueError(f"resize, interpolation and crop_rounding are {ways!r}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self)
        if self.crop_rounding == "even":
            del values["crop_rounding"]  # earlier versions do not know the key
        return values

    def pixels(self, image: Image.Image) -> Tensor:
        """One picture resized and cropped: (3, image_size, image_size) uint8."""
        size, resampling = self.image_size, _RESAMPLING[self.interpolation]
        image = to_rgb(image)
        if self.resize == "squash":
            return to_tensor(image.resize((size, size), resampling))
        image = _without_far_ends(image)
        # Multiplied first, and cut off: as torchvision and transformers do, so that exports agree pixel by pixel.
        width, height = (int(size * side / min(image.size)) for side in image.size)
        left, top = self._margin(width - size), self._margin(height - size)
        if (width, height) != image.size:
            image = image.resize((width, height), resampling)
        return to_tensor(image.crop((left, top, left + size, top + size)))

    def _margin(self, left_over: int) -> int:
        return left_over // 2 if self.crop_rounding == "down" else round(left_over / 2)

    def batch(self, images: Sequence[Image.Image]) -> Tensor:
        """(n, 3, image_size, image_size) uint8."""
        return stack_pictures([self.pixels(image) for image in images])

    def normalise(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) uint8 in [0, 255] to float32 with the tower's mean and standard deviation.

        The result has its channels last in memory, which convolutions run a fifth faster on.
        """
        pixels = pixels.permute(0, 2, 3, 1).contiguous()  # on bytes: a quarter of the work
        lines = pixels.view(-1, 3 * pixels.shape[2])
        # By lines, as inner loops over three colours take ten times as long.
        mean, std = (_line(values, pixels.shape[2], pixels.device) for values in (self.mean, self.std))
        values = lines.to(torch.float32, copy=True)  # ours, so that no further memory of its size is needed
        return values.sub_(mean).div_(std).view(pixels.shape).permute(0, 3, 1, 2)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a picture that is extremely long: a line of 100,000 pixels, scaled up, would fill the memory."""
    most = LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = (max(0, side - most) // 2 for side in image.size)
    return image.crop((left, top, left + min(image.width, most), top + min(image.height, most)))


@lru_cache(maxsize=64)
def _line(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """Three numbers of [0, 1] as (3 * width,) of bytes; kept, since to copy them makes the host wait for a GPU."""
    with torch.inference_mode(False):
        return (torch.tensor(values, device=device) * 255).repeat(width)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as (3, h, w) uint8, without scaling; in memory it has its colours last, as towers want them."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def colours_last(planes: NDArray[np.uint8]) -> Tensor:
    """(3, h, w) bytes as they are, in memory with the colours last; copied plane by plane, if they have to be."""
    pixels = planes.transpose(1, 2, 0)
    if not pixels.flags.c_contiguous:
        pixels = np.empty(pixels.shape, np.uint8)
        for colour, plane in enumerate(planes):
            pixels[..., colour] = plane
    return torch.from_numpy(pixels).permute(2, 0, 1)


def stack_pictures(pictures: Sequence[Tensor]) -> Tensor:
    """(b, 3, h, w) of pictures (3, h, w), with the colours last in memory where all have them there."""
    rows = [picture.permute(1, 2, 0) for picture in pictures]
    if all(row.is_contiguous() for row in rows):
        return torch.stack(rows).permute(0, 3, 1, 2)
    return torch.stack(list(pictures))
