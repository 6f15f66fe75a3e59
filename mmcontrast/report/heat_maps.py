"""Heat maps over a picture, as a PNG or as a page."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from mmcontrast.report.html import environment
from mmcontrast.report.pictures import data_uri

Heat = np.ndarray[Any, np.dtype[np.float32]]
_COLOURS = "inferno"
_STRENGTH = 0.6  # of the colour over the picture
_PANELS = 3  # beside one another in a PNG
_INK = "#3b4252"


@dataclass(frozen=True)
class TextMap:
    """One text over one picture.

    Attributes:
        text: as asked.
        heat: (rows, columns) cosines of the patches.
        whole: cosine of the whole picture.
    """

    text: str
    heat: Heat
    whole: float

    @property
    def low(self) -> float:
        """The least cosine."""
        return float(self.heat.min())

    @property
    def high(self) -> float:
        """The greatest cosine."""
        return float(self.heat.max())


def overlay(picture: Image.Image, heat: Heat) -> Image.Image:
    """The picture in grey under colours that go from the least to the greatest value of (rows, columns)."""
    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    smooth = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    colours = mpl.colormaps[_COLOURS](smooth)[..., :3] * 255
    # Neither black nor white, that dark places do not read as low values.
    grey = 70 + 0.55 * np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((_STRENGTH * colours + (1 - _STRENGTH) * grey).round().astype(np.uint8))


def heat_maps_png(picture: Image.Image, maps: Sequence[TextMap]) -> bytes:
    """The picture, and beside it each text's map with its scale of cosines.

    Args:
        picture: what the model saw, at any resolution.
        maps: of the texts. Characters that matplotlib's font lacks are boxes; the page has the reader's fonts.
    """
    columns = min(_PANELS, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.9 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.set_axis_off()
    axes[0].imshow(np.asarray(picture))
    axes[0].set_title("what the model sees", fontsize=10, color=_INK)
    for one, found in zip(axes[1:], maps, strict=False):
        one.imshow(np.asarray(overlay(picture, found.heat)))
        title = textwrap.shorten(found.text, 90, placeholder=" ...")
        one.set_title(textwrap.fill(title, 32), fontsize=10, color=_INK, parse_math=False)
        scale = ScalarMappable(Normalize(found.low, max(found.high, found.low + 1e-6)), _COLOURS)
        bar = figure.colorbar(scale, ax=one, orientation="horizontal", fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=8, colors=_INK)
        bar.ax.locator_params(nbins=5)
        bar.set_label(f"cosine of a patch (whole picture: {found.whole:.3f})", fontsize=8, color=_INK)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def heat_maps_page(picture: Image.Image, maps: Sequence[TextMap], *, name: str, model: str) -> str:
    """One self-contained page; the pointer on a map shows the picture beneath."""
    template = environment().get_template("heat_maps.html.j2")
    gradient = [mpl.colors.to_hex(mpl.colormaps[_COLOURS](step / 8)) for step in range(9)]
    shown = [(found, _uri(overlay(picture, found.heat))) for found in maps]
    return template.render(name=name, model=model, picture=_uri(picture), maps=shown, gradient=", ".join(gradient))


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return data_uri(buffer.getvalue())
