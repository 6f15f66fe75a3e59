"""Pictures and captions on a plane; pointing at a dot shows what it is, without any script."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_POINTS = 600
"""Pictures on a map: more hide each other, and each costs the page a thumbnail."""
_LEGEND = 24
_TILE = 96


@dataclass(frozen=True)
class Dot:
    """A pair on the map.

    Attributes:
        x, y: place of the picture, 0 to 100.
        text_x, text_y: place of its caption, or None.
        hue: of its class or cluster, 0 to 360, or None.
        title: its class, or "".
        caption: its caption, or "".
        column, row: its thumbnail's place in the sheet, in per cent as CSS has it.
    """

    x: float
    y: float
    text_x: float | None
    text_y: float | None
    hue: int | None
    title: str
    caption: str
    column: float
    row: float


@dataclass(frozen=True)
class Anchor:
    """A class name where its prompts lie."""

    x: float
    y: float
    name: str
    hue: int | None


@dataclass(frozen=True)
class PictureMap:
    """A map with its thumbnails in one JPEG sheet.

    Attributes:
        name: of the map in the page: letters, digits and hyphens.
        dots: pairs.
        anchors: classes.
        sheet: JPEG bytes.
        tiles: thumbnails a side of the sheet.
        small: the pictures are so small that they are shown with their pixels.
        legend: (name, hue, count) of the classes or clusters, the largest first.
        more: classes that are not in the legend.
        explained: share of the variance that the plane holds.
        left_out: pictures that are not on the map.
        kind: what the colours are: "class", "cluster" or "".
    """

    name: str
    dots: Sequence[Dot]
    anchors: Sequence[Anchor]
    sheet: bytes
    tiles: int
    small: bool
    legend: Sequence[tuple[str, int, int]]
    more: int
    explained: float
    left_out: int
    kind: str


def picture_map(
    name: str,
    pictures: Sequence[Image.Image],
    points: NDArray[np.float32],
    *,
    text_points: NDArray[np.float32] | None = None,
    anchors: tuple[NDArray[np.float32], Sequence[str]] | None = None,
    captions: Sequence[str] = (),
    classes: Sequence[str] = (),
    kind: str = "class",
    explained: float = 0.0,
    left_out: int = 0,
    tile: int = _TILE,
) -> PictureMap:
    """Lay n pictures out.

    Args:
        name: of the map in the page.
        pictures: n.
        points: (n, 2) of the pictures.
        text_points: (n, 2) of a caption of each.
        anchors: (c, 2) places of class prompts, and their names.
        captions: n, or none.
        classes: n names of classes or clusters that give the colour, or none; "" has no colour.
        kind: what they are.
        explained, left_out: see `PictureMap`.
        tile: pixels of a thumbnail at most.
    """
    places = [points, *([] if text_points is None else [text_points]), *([] if anchors is None else [anchors[0]])]
    fitted = np.split(_percent(np.concatenate(places)), np.cumsum([len(part) for part in places])[:-1])
    hues = _hues(classes, () if anchors is None else anchors[1])
    sheet, tiles, small = _sheet(pictures, tile)
    texts = [(None, None)] * len(pictures) if text_points is None else fitted[1].tolist()
    dots = [
        Dot(
            x=x,
            y=y,
            text_x=text_x,
            text_y=text_y,
            hue=hues.get(classes[i]) if classes else None,
            title=classes[i] if classes and kind == "class" else "",
            caption=captions[i] if captions else "",
            column=100 * (i % tiles) / max(1, tiles - 1),
            row=100 * (i // tiles) / max(1, tiles - 1),
        )
        for i, ((x, y), (text_x, text_y)) in enumerate(zip(fitted[0].tolist(), texts, strict=True))
    ]
    named = () if anchors is None else zip(fitted[-1], anchors[1], strict=True)
    counts = Counter(name for name in classes if name)
    return PictureMap(
        name=name,
        dots=dots,
        anchors=[Anchor(float(x), float(y), label, hues.get(label)) for (x, y), label in named],
        sheet=sheet,
        tiles=tiles,
        small=small,
        legend=[(label, hues[label], count) for label, count in counts.most_common(_LEGEND)],
        more=max(0, len(counts) - _LEGEND),
        explained=explained,
        left_out=left_out,
        kind=kind if counts else "",
    )


def _hues(classes: Sequence[str], also: Sequence[str]) -> dict[str, int]:
    """A hue of each class, those next to each other in the alphabet far apart on the circle."""
    names = sorted({name for name in (*classes, *also) if name})
    return {name: round(360 * ((0.6 + place * 0.618034) % 1)) for place, name in enumerate(names)}


def _percent(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2) points to 2..98 per cent of the map; a few far ones are brought to its border."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    unit = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.asarray(np.round(2 + 96 * unit * [1, -1] + [0, 96], 1), np.float64)  # up is up


def _sheet(pictures: Sequence[Image.Image], tile: int) -> tuple[bytes, int, bool]:
    """All pictures as square tiles of one JPEG; how many a side; whether they are small."""
    tiles = max(1, math.ceil(math.sqrt(len(pictures))))
    largest = max((max(picture.size) for picture in pictures), default=tile)
    side = min(tile, max(largest, 16))
    sheet = Image.new("RGB", (tiles * side, tiles * side), (128, 128, 128))
    for i, picture in enumerate(pictures):
        sheet.paste(_square(picture, side), (i % tiles * side, i // tiles * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=78)
    return buffer.getvalue(), tiles, side < 64


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box)
