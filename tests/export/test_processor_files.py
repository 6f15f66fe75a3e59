from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.image_utils import load_image

from mmcontrast.export.processor_files import FILES, crops_alike, write_processor
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.models import ClipTokenizer
from mmcontrast.preprocess import ImagePreprocess, decode_image

PICTURES = 200
MODES = ("RGB", "L", "P", "palette transparency", "RGBA", "LA", "CMYK", "1", "I;16", "EXIF", "JPEG", "grey JPEG")


def noise(width: int, height: int, seed: int, channels: int = 3) -> np.ndarray[Any, Any]:
    """Half a gradient, half noise: edges and smooth parts."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width * height * channels).reshape(height, width, channels)
    return np.where(rng.random((height, width, 1)) < 0.5, ramp, rng.integers(0, 256, ramp.shape)).astype(np.uint8)


def picture(mode: str, width: int, height: int, seed: int) -> tuple[Image.Image, str, dict[str, Any]]:
    """A picture, the format of its file, and how to save it."""
    image = Image.fromarray(noise(width, height, seed))
    if mode == "palette transparency":
        return image.quantize(16), "png", {"transparency": bytes([128, 0, 255, 40])}
    if mode == "RGBA":
        return Image.fromarray(noise(width, height, seed, 4), "RGBA"), "png", {}
    if mode == "LA":
        return Image.fromarray(noise(width, height, seed, 4), "RGBA").convert("LA"), "png", {}
    if mode == "CMYK":
        return image.convert("CMYK"), "tiff", {}
    if mode == "I;16":
        grey = np.random.default_rng(seed).integers(0, 65536, (height, width))
        return Image.fromarray(grey.astype(np.uint16)), "png", {}
    if mode == "EXIF":
        exif = Image.Exif()
        exif[0x0112] = 2 + seed % 7
        return image, "png", {"exif": exif}
    if mode in ("JPEG", "grey JPEG"):
        return image.convert("L") if mode == "grey JPEG" else image, "jpeg", {}
    return image.convert(mode), "png", {}


def sizes(preprocess: ImagePreprocess) -> Iterator[tuple[int, int]]:
    """Odd sizes, strips and tiny pictures among them, that are cropped alike."""
    rng = np.random.default_rng(7)
    while True:
        width, height = (int(side) for side in rng.integers(1, 120, 2))
        if rng.random() < 0.1:
            width, height = int(rng.integers(1, 3)), int(rng.integers(60, 400))
        if rng.random() < 0.5:
            width, height = height, width
        if crops_alike(preprocess, width, height) and crops_alike(preprocess, height, width):
            yield width, height


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ImagePreprocess, Path]:
    resize, interpolation = request.param
    preprocess = ImagePreprocess(33, resize=resize, interpolation=interpolation)
    (tmp_path / "export").mkdir()
    write_processor(preprocess, tmp_path / "export")
    return preprocess, tmp_path / "export"


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # of their loading
@pytest.mark.parametrize("written", list(product(("shortest", "squash"), ("bicubic", "bilinear"))), indirect=True)
def test_transformers_sees_the_same_pixels(written: tuple[ImagePreprocess, Path], tmp_path: Path) -> None:
    preprocess, folder = written
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    for seed, (width, height) in zip(range(PICTURES), sizes(preprocess), strict=False):
        mode = MODES[seed % len(MODES)]
        if mode == "I;16":
            continue  # see below
        image, suffix, values = picture(mode, width, height, seed)
        file = tmp_path / f"{seed}.{suffix}"
        image.save(file, **values)
        # As pipelines load it.
        theirs = processor(images=[load_image(str(file))], return_tensors="pt")["pixel_values"][0]
        pixels = preprocess.pixels(decode_image(file))
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (preprocess.mean, preprocess.std))
        levels = (theirs * std + mean) * 255
        assert (levels.round() == pixels).all(), (mode, image.size)
        assert (theirs - preprocess.normalise(pixels[None])[0]).abs().max() <= 1e-6, (mode, image.size)


@pytest.mark.parametrize("written", [("shortest", "bicubic")], indirect=True)
def test_an_upright_rgb_picture_may_be_handed_over_as_it_is(written: tuple[ImagePreprocess, Path]) -> None:
    preprocess, folder = written
    image = Image.fromarray(noise(50, 90, 0))
    write_tokenizer(ClipTokenizer(77), folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "CLIPProcessor"
    batch = processor(images=[image], text=["a dog"], return_tensors="pt")
    assert (batch["pixel_values"] - preprocess.normalise(preprocess.batch([image]))).abs().max() <= 1e-6
    assert batch["input_ids"].tolist() == [[49406, 320, 1929, 49407]]


@pytest.mark.parametrize("rounding", ["even", "down"])
def test_the_crop_differs_where_said_and_only_there(rounding: Any, tmp_path: Path) -> None:
    preprocess = ImagePreprocess(32, crop_rounding=rounding)
    write_processor(preprocess, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for size in ((32, side) for side in range(32, 48)):
        image = Image.fromarray(noise(*size, seed=1))
        theirs = processor(images=[image], return_tensors="pt")["pixel_values"]
        alike = torch.equal(theirs.round(decimals=3), preprocess.normalise(preprocess.batch([image])).round(decimals=3))
        assert alike == crops_alike(preprocess, *size), size
    assert crops_alike(preprocess, 32, 35) == (rounding == "down")
    assert crops_alike(ImagePreprocess(32, resize="squash"), 32, 35)
    assert not crops_alike(preprocess, 1, 201)
    assert crops_alike(ImagePreprocess(32, crop_rounding="down"), 32, 35)


def test_one_transparent_colour_becomes_white_unless_it_is_forgotten(tmp_path: Path) -> None:
    preprocess = ImagePreprocess(32)
    write_processor(preprocess, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    Image.fromarray(noise(40, 40, 0)).quantize(16).save(file := tmp_path / "palette.png", transparency=3)
    ours = preprocess.normalise(preprocess.pixels(decode_image(file))[None])
    image = load_image(str(file))
    assert (processor(images=[image], return_tensors="pt")["pixel_values"] - ours).abs().max() > 0.1
    del image.info["transparency"]
    assert (processor(images=[image], return_tensors="pt")["pixel_values"] - ours).abs().max() <= 1e-6


def test_sixteen_bits_are_clipped_by_pillow_alone(tmp_path: Path) -> None:
    preprocess = ImagePreprocess(32)
    image, _, _ = picture("I;16", 40, 40, 0)
    image.save(tmp_path / "grey.png")
    assert np.asarray(load_image(str(tmp_path / "grey.png"))).mean() > 250
    assert 120 < preprocess.pixels(decode_image(tmp_path / "grey.png")).float().mean() < 135


def test_version_four_finds_its_own_class_first(tmp_path: Path) -> None:
    write_processor(ImagePreprocess(32), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    flat, nested = (json.loads((tmp_path / name).read_text()) for name in FILES)
    assert flat.pop("image_processor_type") == "CLIPImageProcessor"
    assert nested["image_processor"].pop("image_processor_type") == "PilBackend"
    assert flat == nested["image_processor"]
    assert nested["processor_class"] == "CLIPProcessor"
