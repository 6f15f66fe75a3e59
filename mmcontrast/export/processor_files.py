"""How a model wants its pictures, as the files that transformers and sentence-transformers read.

Two descriptions are written. Version 5 of transformers scales with torchvision by default, which differs from Pillow
by a level here and there; its class for Pillow cannot be named by a CLIP configuration, but its base, `PilBackend`,
can. It stands in processor_config.json, which version 5 reads first; 5.0 to 5.3 do not know it yet, and only load
`CLIPImageProcessor` by its own name. Version 4 reads preprocessor_config.json first, where it finds
`CLIPImageProcessor`, which is Pillow's there.

Pixels are those of `ImagePreprocess`, with these exceptions that no setting of transformers can help:

- Where the long side exceeds the square by 4n + 3 pixels, transformers cuts one pixel further to the left or top than
  torchvision, open_clip and `ImagePreprocess` (`crops_alike` tells), unless its `crop_rounding` is "down".
  Pictures over `LONGEST` times as long as wide are scaled by `ImagePreprocess` without their far ends.
- Pictures handed over as Pillow objects in other modes than RGB: a processor puts transparent ones on white and does
  not turn by the EXIF tag. A pipeline, or `to_rgb`, makes them RGB first, as `ImagePreprocess` does.
- In pipelines too: 16-bit greys are clipped to white, and where a PNG or GIF names one colour as transparent, that
  becomes white.
- Version 4 takes the first side of a picture that is 1 or 3 pixels high for its colours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from mmcontrast.preprocess import LONGEST, ImagePreprocess

FILES = ("preprocessor_config.json", "processor_config.json")
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def write_processor(preprocess: ImagePreprocess, folder: Path) -> None:
    """Write preprocessor_config.json and processor_config.json into an existing folder."""
    settings = _settings(preprocess)
    _write_json(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", **settings})
    nested = {"image_processor_type": "PilBackend", **settings}
    _write_json(folder / "processor_config.json", {"processor_class": "CLIPProcessor", "image_processor": nested})


def crops_alike(preprocess: ImagePreprocess, width: int, height: int) -> bool:
    """Whether transformers crops an upright picture of this size exactly as `ImagePreprocess` does."""
    short, long = sorted((width, height))
    if preprocess.resize == "squash":
        return True
    if long > LONGEST * short:
        return False
    return (
        preprocess.crop_rounding == "down"
        or (int(preprocess.image_size * long / short) - preprocess.image_size) % 4 != 3
    )


def _settings(preprocess: ImagePreprocess) -> dict[str, Any]:
    square = {"height": preprocess.image_size, "width": preprocess.image_size}
    crop = preprocess.resize == "shortest"
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.image_size} if crop else square,
        "resample": int(_RESAMPLE[preprocess.interpolation]),
        "do_center_crop": crop,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
