"""The section about negatives: what it shows, as plain values, and how its pictures are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mmcontrast.report.pictures import data_uri

MAP_WIDTH, MAP_HEIGHT, _MARGIN = 1000, 620, 46
_MEDOIDS = 28
_THUMB = 46
_CELL = 22
SERIES = 7
"""Colours of the page, `--series-1` ... `--series-7`."""


@dataclass(frozen=True)
class ShownPicture:
    """A picture with its caption.

    Attributes:
        thumbnail: JPEG or PNG bytes, or None.
        caption: the one that was drawn.
        note: where it comes from, or its class.
    """

    thumbnail: bytes | None
    caption: str
    note: str = ""


@dataclass(frozen=True)
class ShownPair:
    """A picture and another one's caption, which the loss takes for a negative.

    Attributes:
        left, right: the picture is that of `left`, the caption that of `right`.
        probability: that the caption fits the picture, or None.
        cosine: of the two.
        verdict: what labels or groups say, or "".
        same: the same as a truth value, or None.
    """

    left: ShownPicture
    right: ShownPicture
    probability: float | None
    cosine: float
    verdict: str = ""
    same: bool | None = None


@dataclass(frozen=True)
class ShownCluster:
    """A cluster by its most typical pictures; `purity` of its most frequent class `label`."""

    thumbnails: Sequence[bytes]
    caption: str
    size: int
    within: float
    label: str = ""
    purity: float | None = None


@dataclass(frozen=True)
class ShownMap:
    """A map of n pairs: (n, 2) points, (n,) cluster of each, (k,) its most typical member and that one's thumbnail."""

    points: NDArray[np.float32]
    ids: NDArray[np.int64]
    medoids: Sequence[int]
    thumbnails: Sequence[bytes]
    explained: float


@dataclass(frozen=True)
class ShownBatch:
    """One batch as the loss sees it: b pairs, (b, b) known matches, believed probabilities, and truth or None."""

    pictures: Sequence[ShownPicture]
    known: NDArray[np.bool_]
    believed: NDArray[np.float64]
    same: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ShownReliability:
    """Points (believed, observed, count) of the curve, and label -> value beside it."""

    believed: Sequence[float]
    observed: Sequence[float]
    counts: Sequence[int]
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NegativesView:
    """All of it; whatever is empty is left out.

    Attributes:
        headlines: (label, value, hint), the first numbers to read.
        calibrated: whether there are probabilities.
        truth: what the verdicts are those of: "class", "group", or "".
        believed: pairs believed to match although nothing says so.
        borderline: pairs that are hard to decide.
        hard: close pairs that are believed not to match.
        clusters: the largest first.
    """

    headlines: Sequence[tuple[str, str, str]] = ()
    calibrated: bool = True
    truth: str = ""
    believed: Sequence[ShownPair] = ()
    borderline: Sequence[ShownPair] = ()
    hard: Sequence[ShownPair] = ()
    clusters: Sequence[ShownCluster] = ()
    cluster_note: str = ""
    map: ShownMap | None = None
    batch: ShownBatch | None = None
    reliability: ShownReliability | None = None
    notes: Sequence[str] = ()


def same_in_words(pairs: Sequence[ShownPair]) -> str:
    """How many of some pairs the truth calls the same, in words; "" where nothing tells the truth."""
    judged = [pair.same for pair in pairs if pair.same is not None]
    return f"{sum(judged)} of {len(judged)}" if judged else ""


def map_svg(view: ShownMap) -> Markup:
    """The pairs as dots in the colour of their cluster, and a typical picture of each larger cluster."""
    places = _fit_box(view.points)
    dots = Markup().join(
        Markup('<circle cx="{:.0f}" cy="{:.0f}" r="3.2" class="s{}"/>').format(x, y, cluster % SERIES + 1)
        for (x, y), cluster in zip(places.tolist(), view.ids.tolist(), strict=True)
    )
    shown: list[tuple[float, float]] = []
    pictures = Markup()
    for cluster, (member, thumbnail) in enumerate(zip(view.medoids, view.thumbnails, strict=True)):
        x, y = places[member].tolist()
        if len(shown) == _MEDOIDS or any(abs(x - a) < _THUMB + 8 and abs(y - b) < _THUMB + 8 for a, b in shown):
            continue  # pictures that cover one another show nothing
        shown.append((x, y))
        pictures += Markup(
            '<g><rect x="{:.0f}" y="{:.0f}" width="{t}" height="{t}" class="s{}"/>'
            '<image x="{:.0f}" y="{:.0f}" width="{u}" height="{u}" preserveAspectRatio="xMidYMid slice" href="{}"/></g>'
        ).format(
            x - _THUMB / 2 - 3, y - _THUMB / 2 - 3, cluster % SERIES + 1, x - _THUMB / 2, y - _THUMB / 2,
            data_uri(thumbnail), t=_THUMB + 6, u=_THUMB,
        )  # fmt: skip
    return Markup(
        '<svg class="map" role="img" aria-label="Map of the pairs" viewBox="0 0 {} {}"><g class="dots">{}</g>{}</svg>'
    ).format(MAP_WIDTH, MAP_HEIGHT, dots, pictures)


def _fit_box(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2) points into the box of the map; a few far ones are brought to its border."""
    low, high = np.percentile(points, [0.5, 99.5], axis=0)
    unit = np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1)
    box: NDArray[np.float64] = _MARGIN + unit * (MAP_WIDTH - 2 * _MARGIN, MAP_HEIGHT - 2 * _MARGIN)
    return box


def batch_svg(view: ShownBatch) -> Markup:
    """Pictures down the side, captions (by their own pictures) along the top, and what each pair is in its cell."""
    size, left = len(view.pictures), _CELL + 6
    width = left + size * _CELL
    parts = [Markup()]
    for k, picture in enumerate(view.pictures):
        if picture.thumbnail is not None:
            image = Markup(
                '<image x="{}" y="{}" width="{s}" height="{s}" preserveAspectRatio="xMidYMid slice" href="{}">'
                "<title>{}</title></image>"
            )
            uri = data_uri(picture.thumbnail)
            parts.append(image.format(left + k * _CELL + 1, 1, uri, picture.caption, s=_CELL - 2))
            parts.append(image.format(1, left + k * _CELL + 1, uri, picture.caption, s=_CELL - 2))
    for i in range(size):
        for j in range(size):
            parts.append(_cell(view, i, j, left))
    return Markup('<svg class="batch" role="img" aria-label="One batch" viewBox="0 0 {w} {w}">{}</svg>').format(
        Markup().join(parts), w=width
    )


def _cell(view: ShownBatch, i: int, j: int, left: int) -> Markup:
    believed = float(view.believed[i, j])
    kind = "own" if i == j else "known" if view.known[i, j] else "open"
    what = {"own": "its own caption", "known": "known to match"}.get(kind, f"{100 * believed:.0f} % believed to match")
    style = Markup(' style="--p:{:.2f}"').format(believed) if kind == "open" and believed >= 0.005 else ""
    marked = view.same is not None and view.same[i, j] and kind == "open"
    x, y = left + j * _CELL, left + i * _CELL
    cell = Markup('<rect class="{}"{} x="{}" y="{}" width="{s}" height="{s}"><title>{}: {} | {}</title></rect>').format(
        kind, style, x + 1, y + 1, what, view.pictures[i].caption, view.pictures[j].caption, s=_CELL - 2
    )
    if marked:
        cell += Markup('<circle class="same" cx="{}" cy="{}" r="2.6"/>').format(x + _CELL / 2, y + _CELL / 2)
    return cell


def reliability_svg(view: ShownReliability, what: str = "pairs", truth: str = "the same") -> Markup:
    """Observed share that is `truth` against believed probability; dots grow with the pairs, or `what`, behind them."""
    left, top, side = 46, 10, 250

    def place(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * (1 - y)

    parts = [Markup('<path class="ideal" d="M{} {}L{} {}"/>').format(*place(0, 0), *place(1, 1))]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(tick, tick)
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(left, y, left + side))
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{:.0f} %</text>').format(left - 6, y + 4, 100 * tick)
        )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{:.0f} %</text>').format(x, top + side + 18, 100 * tick)
        )
    points = [place(x, y) for x, y in zip(view.believed, view.observed, strict=True)]
    parts.append(Markup('<polyline points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
    for (x, y), count, b, o in zip(points, view.counts, view.believed, view.observed, strict=True):
        radius = 3 + 1.1 * np.log10(max(count, 1))
        parts.append(
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{:,} pairs: {:.1f} % believed, {:.1f} % the same'
                   "</title></circle>").format(x, y, radius, count, 100 * b, 100 * o)
        )  # fmt: skip
    return Markup('<svg class="reliability" role="img" aria-label="Reliability" viewBox="0 0 310 300">{}</svg>').format(
        Markup().join(parts)
    )
