"""The stock of a scene painter, prepared once per picture size: shape masks, patterns, backgrounds, noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mmcontrast.data.scene_world import BACKGROUNDS, SHAPES

VARIANTS = 4
_MASTER = 512  # shapes are drawn on a square of this side, then scaled down
_REACH = 0.84  # share of that square that a shape spans; the rest is room for its border

Point = tuple[float, float]


def _polar(count: int, radii: tuple[float, ...], turn: float = -90.0) -> list[Point]:
    """`count` points around the origin; the radii take turns."""
    angles = [math.radians(turn + 360.0 * k / count) for k in range(count)]
    return [(radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a)) for k, a in enumerate(angles)]


def _heart() -> list[Point]:
    steps = [2 * math.pi * k / 90 for k in range(90)]
    return [
        (math.sin(t) ** 3, (5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t) - 13 * math.cos(t)) / 16 - 0.07)
        for t in steps
    ]


# Corners in units of half the shape's width, y downwards.
_POLYGONS: dict[str, list[Point]] = {
    "square": [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)],
    "triangle": [(0, -0.92), (1, 0.82), (-1, 0.82)],
    "star": [(1.05 * x, 1.05 * y + 0.07) for x, y in _polar(10, (1.0, 0.44))],
    "heart": _heart(),
    "cross": [(-.34, -.96), (.34, -.96), (.34, -.34), (.96, -.34), (.96, .34), (.34, .34), (.34, .96), (-.34, .96),
              (-.34, .34), (-.96, .34), (-.96, -.34), (-.34, -.34)],
    "hexagon": _polar(6, (1.0,), 0.0),
    "diamond": [(0, -1), (0.74, 0), (0, 1), (-0.74, 0)],
    "arrow": [(-1, -0.3), (0.08, -0.3), (0.08, -0.84), (1, 0), (0.08, 0.84), (0.08, 0.3), (-1, 0.3)],
}  # fmt: skip


def _discs(shape: str) -> list[tuple[float, float, float, int]]:
    """The round shapes as discs (x, y, radius, ink), painted one after the other."""
    if shape == "flower":
        return [(0.58 * x, 0.58 * y, 0.4, 255) for x, y in _polar(6, (1.0,))] + [(0, 0, 0.42, 255)]
    holes = {"circle": [], "ring": [(0.0, 0.0, 0.6, 0)], "crescent": [(0.44, -0.12, 0.8, 0)]}
    return [(0.0, 0.0, 1.0, 255), *holes[shape]]


def _silhouette(shape: str) -> Image.Image:
    """(_MASTER, _MASTER) L, 255 within the shape."""
    mask, centre, half = Image.new("L", (_MASTER, _MASTER)), _MASTER / 2, _MASTER * _REACH / 2
    draw = ImageDraw.Draw(mask)
    if shape in _POLYGONS:
        draw.polygon([(centre + half * x, centre + half * y) for x, y in _POLYGONS[shape]], fill=255)
    else:
        for x, y, radius, ink in _discs(shape):
            cx, cy, r = centre + half * x, centre + half * y, half * radius
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=ink)
    # Blur and cut at half: corners become softly rounded, as of a sticker.
    return mask.filter(ImageFilter.GaussianBlur(_MASTER / 60)).point(lambda v: 255 if v > 127 else 0)


@lru_cache(maxsize=64)
def shape_stencil(shape: str, side: int) -> Image.Image:
    """(side, side) RGB stencil: R = the shape, G = the shape with its border, B = light and shade within it."""
    body = _silhouette(shape)
    # Each blur-and-cut below half moves the outline outwards by about the blur's radius.
    outer = body.filter(ImageFilter.GaussianBlur(_MASTER / 34)).point(lambda v: 255 if v > 28 else 0)
    depth = body.filter(ImageFilter.GaussianBlur(_MASTER / 22))
    shift = _MASTER // 26
    light = ImageChops.subtract(
        ImageChops.offset(depth, -shift, -shift), ImageChops.offset(depth, shift, shift), scale=2.0, offset=128
    )
    return Image.merge("RGB", (body, outer, light)).resize((side, side), Image.Resampling.LANCZOS)


@lru_cache(maxsize=32)
def pattern_sheet(texture: str, side: int) -> Image.Image:
    """(side, side) L, 255 where the second tint goes; about 12 periods wide, for cutting pieces out of it."""
    sheet = Image.new("L", (side, side))
    draw, period = ImageDraw.Draw(sheet), side / 12
    for i in range(-13, 26):
        at = i * period
        if texture == "striped":
            draw.polygon([(at, 0), (at + period * 0.46, 0), (at + period * 0.46 + side, side), (at + side, side)], 255)
            continue
        for j in range(13):
            row = j * period
            if texture == "dotted":
                x, r = at + (period / 2 if j % 2 else 0), period * 0.31
                draw.ellipse((x - r, row - r, x + r, row + r), fill=255)
            elif (i + j) % 2:
                draw.rectangle((at, row, at + period - 1, row + period - 1), fill=255)
    return sheet


Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Field = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def _wave(turns: Field) -> Field:
    """A sine made of parabolas: unlike `np.sin`, it is the same to the last bit on every processor."""
    half = 2 * (turns - np.floor(turns))
    return np.asarray(np.where(half < 1, 4 * half * (1 - half), -4 * (half - 1) * (2 - half)), np.float32)


def _draw_lines(lines: Bools, colour: tuple[int, int, int], base: Field) -> Field:
    """`base` with one flat colour where `lines` is set."""
    return np.asarray(np.where(lines[..., None], np.array(colour, np.float32), base), np.float32)


def _smooth(random: np.random.Generator, side: int, grains: int) -> Field:
    """(side, side) soft random field in [-1, 1] of about `grains` bumps across."""
    coarse = random.integers(0, 256, (grains + 1, grains + 1)).astype(np.uint8)
    fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float32) / 127.5 - 1


def _mix(low: tuple[int, int, int], high: tuple[int, int, int], share: Field) -> Field:
    """(h, w, 3) colours between two, by a field in [0, 1]."""
    bottom, top = np.array(low, np.float32), np.array(high, np.float32)
    return np.asarray(bottom + share[..., None].clip(0, 1) * (top - bottom), np.float32)


def _sky(random: np.random.Generator, y: Field, x: Field) -> Field:
    base = _mix((104, 172, 238), (206, 232, 252), y)
    clouds = _smooth(random, len(y), 4) * 0.7 + _smooth(random, len(y), 9) * 0.4
    return np.asarray(base + (clouds[..., None] * 1.2 - 0.15).clip(0, 0.85) * (252 - base), np.float32)


def _sunset(random: np.random.Generator, y: Field, x: Field) -> Field:
    waves = y + 0.06 * _smooth(random, len(y), 3)
    low = _mix((92, 62, 128), (238, 118, 108), waves * 2)
    high = _mix((238, 118, 108), (255, 214, 140), waves * 2 - 1)
    return np.asarray(np.where(waves[..., None] < 0.5, low, high), np.float32)


def _night(random: np.random.Generator, y: Field, x: Field) -> Field:
    base = _mix((14, 18, 52), (44, 50, 104), y + 0.15 * _smooth(random, len(y), 4))
    side = len(y)
    for row, column in random.integers(0, side, (26, 2)):
        base[row, column] = 130 + random.integers(0, 120)
    return base


def _grass(random: np.random.Generator, y: Field, x: Field) -> Field:
    blades = np.repeat(_smooth(random, len(y), len(y) // 2)[:: max(1, len(y) // 24)], max(1, len(y) // 24), 0)
    share = 0.5 + 0.22 * _smooth(random, len(y), 5) + 0.32 * blades[: len(y)]
    return _mix((58, 122, 44), (136, 190, 84), share)


def _sand(random: np.random.Generator, y: Field, x: Field) -> Field:
    ripples = _wave(9 * y + 0.9 * _smooth(random, len(y), 3) + x)
    return _mix((214, 180, 126), (244, 218, 166), 0.5 + 0.22 * ripples + 0.3 * _smooth(random, len(y), 24))


def _water(random: np.random.Generator, y: Field, x: Field) -> Field:
    waves = _wave(11 * y + 1.1 * _smooth(random, len(y), 7))
    glints = (waves + _smooth(random, len(y), 12) * 0.9 - 0.75).clip(0, 1)
    return np.asarray(_mix((20, 104, 140), (44, 150, 176), 0.5 + 0.4 * waves) + glints[..., None] * 120, np.float32)


def _brick(random: np.random.Generator, y: Field, x: Field) -> Field:
    rows, columns = 12, 6
    row = np.floor(y * rows)
    across = x * columns + 0.5 * (row % 2)
    tint = random.random((rows + 1, columns + 2)).astype(np.float32)[row.astype(int), np.floor(across).astype(int)]
    wall = _mix((146, 66, 50), (190, 96, 72), tint * 0.8 + 0.2 * _smooth(random, len(y), 20))
    mortar = ((y * rows) % 1 < 0.16) | (across % 1 < 0.08)
    return _draw_lines(mortar, (206, 194, 182), wall)


def _wood(random: np.random.Generator, y: Field, x: Field) -> Field:
    board = np.floor(y * 6)
    tint = random.random(7).astype(np.float32)[board.astype(int)]
    grain = _wave(30 * y + 2.2 * _smooth(random, len(y), 3) + tint * 7)
    planks = _mix((148, 104, 64), (204, 160, 108), 0.35 + 0.35 * tint + 0.18 * grain)
    return _draw_lines((y * 6) % 1 < 0.06, (92, 60, 36), planks)


def _paper(random: np.random.Generator, y: Field, x: Field) -> Field:
    sheet = _mix((238, 236, 226), (252, 251, 246), 0.5 + 0.5 * _smooth(random, len(y), 6))
    lines = ((y * 12) % 1 < 0.1) | ((x * 12) % 1 < 0.1)
    return _draw_lines(lines, (176, 204, 228), sheet)


_PAINTERS: dict[str, Callable[[np.random.Generator, Field, Field], Field]] = {
    "sky": _sky, "sunset": _sunset, "night": _night, "grass": _grass, "sand": _sand,
    "water": _water, "brick": _brick, "wood": _wood, "paper": _paper,
}  # fmt: skip


@lru_cache(maxsize=64)
def background_sheet(kind: str, variant: int, side: int) -> Image.Image:
    """(side, side) RGB; pictures are windows cut out of it."""
    work = 2 * side
    random = np.random.default_rng([BACKGROUNDS.index(kind), variant])
    y, x = np.mgrid[0:work, 0:work].astype(np.float32) / work
    pixels = _PAINTERS[kind](random, y, x)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)


@lru_cache(maxsize=8)
def noise_bank(side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """(16, side, side, 3) int16 sensor noise with a deviation of about 3.5 grey levels."""
    random = np.random.default_rng(len(SHAPES))
    return random.integers(-6, 7, (16, side, side, 3)).astype(np.int16)
