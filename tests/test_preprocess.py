"""Sizes and crops of the evaluation preprocessing, against the libraries whose checkpoints are loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from mmcontrast.preprocess import ImagePreprocess

# Long sides that leave 0 to 3 pixels over, modulo 4; the last two are cut off differently when divided first.
SIZES = [(40, 32), (41, 32), (42, 32), (43, 32), (32, 47), (33, 71), (98, 2401), (103, 2163), (32, 32), (20, 27)]
PLAIN = ImagePreprocess(32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _picture(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_open_clip(
    size: tuple[int, int], resize: Literal["shortest", "squash"], interpolation: Literal["bicubic", "bilinear"]
) -> None:
    cfg = PreprocessCfg(size=32, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=resize, interpolation=interpolation)
    theirs = image_transform_v2(cfg, is_train=False)(_picture(size))
    ours = replace(PLAIN, resize=resize, interpolation=interpolation).pixels(_picture(size))
    assert torch.equal(ours, (theirs * 255).round().to(torch.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers(size: tuple[int, int]) -> None:
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
    )
    theirs = processor(_picture(size), return_tensors="pt").pixel_values[0]
    assert torch.equal(replace(PLAIN, crop_rounding="down").pixels(_picture(size)), theirs)


def test_the_two_crops_differ_by_a_pixel_only_where_three_are_left_over() -> None:
    down = replace(PLAIN, crop_rounding="down")
    differ = [size for size in SIZES[:5] if not torch.equal(PLAIN.pixels(_picture(size)), down.pixels(_picture(size)))]
    assert differ == [(43, 32), (32, 47)]


def test_values_survive_json_and_old_files_are_read() -> None:
    for preprocess in (PLAIN, replace(PLAIN, crop_rounding="down")):
        assert ImagePreprocess.from_dict(preprocess.to_dict()) == preprocess
    assert "crop_rounding" not in PLAIN.to_dict()
