from __future__ import annotations

import colorsys
from random import Random

import numpy as np
import pytest
from PIL import Image

from mmcontrast.data.scene_drawing import paint
from mmcontrast.data.scene_world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, SceneObject


def one(shape: str = "circle", colour: str = "red", texture: str = "plain", x: float = 0.5) -> SceneObject:
    return SceneObject(shape, colour, texture, "large", x, 0.5, 0.5)


def pixels(scene: Scene, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(paint(Random(seed), scene), np.float64)


def test_same_stream_same_picture_other_stream_other_picture() -> None:
    scene = Scene((one(),), "sky")
    assert (pixels(scene, 1) == pixels(scene, 1)).all()
    assert np.abs(pixels(scene, 1) - pixels(scene, 2)).mean() > 1


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_closest_to_themselves(colour: str) -> None:
    """The centre of a painted object has the hue and the brightness that its name promises."""
    red, green, blue = pixels(Scene((one(colour=colour),), "wood"))[29:35, 29:35].reshape(-1, 3).mean(0) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if colour == "black":
        assert value < 0.3
    elif colour == "white":
        assert saturation < 0.15
        assert value > 0.8
    else:
        ranges = {"red": (340, 14), "orange": (15, 38), "yellow": (44, 62), "green": (100, 160), "blue": (200, 238),
                  "purple": (255, 295), "pink": (315, 350), "brown": (8, 36)}  # fmt: skip
        low, high = ranges[colour]
        assert low <= 360 * hue <= high if low < high else 360 * hue >= low or 360 * hue <= high
        assert (value < 0.6) == (colour == "brown") or colour == "green"


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_lie_where_the_scene_says(shape: str) -> None:
    """Against the same picture without it, the object changes its own half and leaves the other half alone."""
    scene, other = Scene((one(shape, x=0.27),), "night"), Scene((one(shape, x=0.73),), "night")
    changed = np.abs(pixels(scene) - pixels(other)).max(-1) > 40
    columns = changed.sum(0)
    assert columns[:32].sum() > 100
    assert columns[30:34].sum() < 0.1 * columns.sum()


def test_all_pairs_of_shapes_and_textures_look_different() -> None:
    pictures = [pixels(Scene((one(shape),), "paper")) for shape in SHAPES]
    pictures += [pixels(Scene((one(texture=texture),), "paper")) for texture in TEXTURES if texture != "plain"]
    for a in range(len(pictures)):
        for b in range(a):
            assert np.abs(pictures[a] - pictures[b]).mean() > 1


def test_backgrounds_look_different_even_in_other_light() -> None:
    """A nearest-mean rule on coarse pictures without objects tells most backgrounds apart."""

    def coarse(kind: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        image = paint(Random(seed), Scene((), kind)).resize((4, 4), Image.Resampling.BOX)
        return np.asarray(image, np.float64).ravel()

    means = np.stack([np.mean([coarse(kind, seed) for seed in range(8)], 0) for kind in BACKGROUNDS])
    hits = [
        np.abs(means - coarse(kind, seed)).sum(1).argmin() == k
        for k, kind in enumerate(BACKGROUNDS)
        for seed in range(20, 26)
    ]
    assert np.mean(hits) > 0.85


def test_later_objects_cover_earlier_ones() -> None:
    red, blue = one(colour="red"), one("square", "blue")
    on_top = pixels(Scene((red, blue), "sand", stacked=True))[32, 32]
    assert on_top[2] > on_top[0]
