"""Where in a picture a model finds texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from mmcontrast.build.jobs import load_encoder
from mmcontrast.errors import DataError
from mmcontrast.evaluation.heat_maps import heat_maps
from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import decode_image
from mmcontrast.report.heat_maps import TextMap, heat_maps_page, heat_maps_png

KINDS = (".png", ".html")
_SHOWN_SIDE = 448  # pixels of the picture that is shown, at least


def heatmap(
    model: DualEncoder | str | Path, picture: str | Path, texts: Sequence[str], output: str | Path
) -> list[TextMap]:
    """Draw the cosines of a picture's patches with texts over the picture.

    Args:
        model: a model, its folder, or its Hub name; its image tower is a vision transformer.
        picture: a file.
        texts: anything the model may find in it.
        output: a .png or .html file to write.

    Returns:
        The cosines, text by text.

    Raises:
        DataError: the file is no picture, or `output` is of another kind.
        ModelError: the image tower has no patches.
    """
    output, file = Path(output), Path(picture)
    if output.suffix.lower() not in KINDS:
        raise DataError(f"--output: {output} is none of .png and .html")
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    try:
        image = decode_image(file)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    encoder = load_encoder(model)
    found = heat_maps(encoder, image, texts)
    maps = [TextMap(text, found.patches[k].numpy(), float(found.whole[k])) for k, text in enumerate(texts)]
    seen = _seen(encoder, image)
    if output.suffix.lower() == ".png":
        page = heat_maps_png(seen, maps)
    else:
        name = "a model" if isinstance(model, DualEncoder) else str(model)
        page = heat_maps_page(seen, maps, name=file.name, model=name).encode()
    _write(page, output)
    return maps


def _seen(encoder: DualEncoder, image: Image.Image) -> Image.Image:
    """What the model's preprocess leaves of the picture, at a resolution for people."""
    preprocess = encoder.preprocess
    shown = replace(preprocess, image_size=max(preprocess.image_size, _SHOWN_SIDE))
    return Image.fromarray(shown.pixels(image).permute(1, 2, 0).numpy())


def _write(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
