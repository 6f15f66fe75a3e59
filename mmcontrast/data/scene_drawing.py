"""Paints a scene: stickers with soft shadows on a background, each picture in a light of its own."""

from __future__ import annotations

import colorsys
import math
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from mmcontrast.data.scene_art import VARIANTS, background_sheet, noise_bank, pattern_sheet, shape_stencil
from mmcontrast.data.scene_world import Scene, SceneObject

SUPERSAMPLING = 2  # of stencils that are smooth themselves, so twice is enough
_STENCIL_SHARE = 0.6  # side of the stencils, as a share of the supersampled picture: the size of a large object
# Hue in degrees, saturation, value: far apart from each other even after the jitter below.
_HSV: dict[str, tuple[float, float, float]] = {
    "red": (358, 0.82, 0.86), "orange": (27, 0.92, 0.98), "yellow": (51, 0.85, 0.98), "green": (128, 0.72, 0.62),
    "blue": (218, 0.80, 0.88), "purple": (276, 0.66, 0.70), "pink": (334, 0.42, 0.98), "brown": (22, 0.66, 0.46),
    "black": (230, 0.12, 0.15), "white": (210, 0.03, 0.97),
}  # fmt: skip

_SHADOW = 110  # opacity of the shadows, of 255

Colour = tuple[int, int, int]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, min(saturation, 1.0), min(value, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)


def _tints(random: Random, colour: str) -> tuple[Colour, Colour, Colour]:
    """(main tint, tint of the texture, border) of a colour, with a slight jitter."""
    hue, saturation, value = _HSV[colour]
    hue += 8 * (random.random() - 0.5)
    saturation *= 0.93 + 0.12 * random.random()
    value *= 0.94 + 0.1 * random.random()
    main = _rgb(hue, saturation, value)
    if colour == "white":
        return main, _rgb(hue, 0.10, 0.72), _rgb(hue, 0.16, 0.52)
    if colour == "black":
        return main, _rgb(hue, 0.10, 0.46), (250, 250, 248)
    if colour == "yellow":
        return main, _rgb(hue - 8, saturation, value * 0.84), (250, 250, 248)
    if colour == "pink":
        return main, _rgb(hue, saturation * 1.6, value * 0.8), (250, 250, 248)
    return main, _rgb(hue, saturation * 0.38, 0.55 + 0.45 * value), (250, 250, 248)


def _stencil(random: Random, thing: SceneObject, size: int) -> tuple[Image.Image, int, int]:
    """The object's stencil at its own scale, angle and sub-pixel place: (RGB tile, left, top) in picture pixels."""
    master = shape_stencil(thing.shape, int(size * SUPERSAMPLING * _STENCIL_SHARE))
    # The master spans 0.84 of its tile; a quarter more than the diameter leaves room for border and turning.
    tile = math.ceil(thing.diameter * size * 1.25) + 1
    left, top = math.floor(thing.x * size - tile / 2), math.floor(thing.y * size - tile / 2)
    zoom = 0.84 * master.width / (thing.diameter * size * SUPERSAMPLING)
    angle = math.radians(16 * (random.random() - 0.5))
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    centre_x, centre_y = (thing.x * size - left) * SUPERSAMPLING, (thing.y * size - top) * SUPERSAMPLING
    half = master.width / 2
    matrix = (
        cosine, sine, half - cosine * centre_x - sine * centre_y,
        -sine, cosine, half + sine * centre_x - cosine * centre_y,
    )  # fmt: skip
    side = tile * SUPERSAMPLING
    turned = master.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return turned.reduce(SUPERSAMPLING), left, top


def _pattern(random: Random, thing: SceneObject, size: int, side: int) -> Image.Image:
    """(side, side) L: where the texture's second tint goes. Small objects get a finer pattern."""
    period = size * (0.125 if thing.size == "large" else 0.085)
    sheet = pattern_sheet(thing.texture, round(12 * period * SUPERSAMPLING))
    room = max(1, sheet.width - side * SUPERSAMPLING)
    x, y = int(random.random() * room), int(random.random() * room)
    return sheet.crop((x, y, x + side * SUPERSAMPLING, y + side * SUPERSAMPLING)).reduce(SUPERSAMPLING)


def _paint_object(random: Random, canvas: Image.Image, thing: SceneObject, light: tuple[float, float]) -> None:
    """Shadow, border, body, texture and gloss of one object onto the canvas."""
    size = canvas.width
    stencil, left, top = _stencil(random, thing, size)
    body, outer, shade = stencil.split()
    main, second, border = _tints(random, thing.colour)
    reach = size * 0.035
    blurred = outer.filter(ImageFilter.GaussianBlur(size * 0.022))
    shadow = ImageChops.multiply(blurred, Image.new("L", blurred.size, _SHADOW))
    canvas.paste((16, 16, 32), (left + round(light[0] * reach), top + round(light[1] * reach)), shadow)
    canvas.paste(border, (left, top), outer)
    skin = Image.new("RGB", body.size, main)
    if thing.texture != "plain":
        skin.paste(second, (0, 0), _pattern(random, thing, size, body.width))
    # Overlay leaves mid-grey as it is: the stencil's light and shade round the edges without changing the colour.
    grey = Image.merge("RGB", (shade, shade, shade))
    canvas.paste(ImageChops.overlay(skin, grey), (left, top), body)


def _background(random: Random, kind: str, size: int) -> Image.Image:
    """A window of the background's sheet, perhaps mirrored."""
    sheet = background_sheet(kind, int(random.random() * VARIANTS), size * 3 // 2)
    x, y = (int(random.random() * (sheet.width - size)) for _ in range(2))
    window = sheet.crop((x, y, x + size, y + size))
    window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else window
    return ImageEnhance.Color(window).enhance(0.8 + 0.3 * random.random())


def _lighting(random: Random, image: Image.Image) -> Image.Image:
    """Uneven, slightly tinted light and sensor noise."""
    size = image.width
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = 0.1 * (random.random() - 0.5), 0.1 * (random.random() - 0.5)
    gain = 0.94 + 0.12 * random.random() + tilt_x * ramp[None, :, None] + tilt_y * ramp[:, None, None]
    tint = np.array([1 + 0.06 * (random.random() - 0.5) for _ in range(3)], np.float32)
    bank = noise_bank(size)
    noise = bank[int(random.random() * len(bank))]
    pixels = np.asarray(image, np.float32) * (gain * tint).astype(np.float32) + noise * np.float32(random.random())
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def paint(random: Random, scene: Scene, size: int = 64) -> Image.Image:
    """The scene as an RGB picture of size x size; other states of `random` give other pictures of the same scene."""
    canvas = _background(random, scene.background, size)
    light = (random.random() * 2 - 1, 0.5 + 0.5 * random.random())
    for thing in scene.objects:
        _paint_object(random, canvas, thing, light)
    return _lighting(random, canvas)
