"""The preprocessing of a checkpoint, read strictly: what we would do otherwise is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import transformers

from mmcontrast.errors import ModelError
from mmcontrast.models.towers import one_line
from mmcontrast.models.transformers_config import quiet_transformers
from mmcontrast.preprocess import ImagePreprocess

_OPEN_CLIP_KEYS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
_BYTES = 1 / 255


def read_open_clip(values: Mapping[str, Any], image_size: int) -> ImagePreprocess:
    """`preprocess_cfg` of open_clip; what is left out has the value that open_clip gives it.

    Raises:
        ModelError: a size other than the tower's, an unknown field, or a resize that we do not do.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if unknown := sorted(set(given) - _OPEN_CLIP_KEYS):
        raise ModelError(f"preprocess_cfg has the unknown field {', '.join(unknown)}")
    size = given.get("size", image_size)
    if list(size if isinstance(size, list | tuple) else [size, size]) != [image_size, image_size]:
        raise ModelError(f"preprocess_cfg.size is {size}, but the image tower takes {image_size}")
    if given.get("mode", "RGB") != "RGB":
        raise ModelError(f"preprocess_cfg.mode is {given['mode']!r}; only RGB is supported")
    resize, interpolation = given.get("resize_mode", "shortest"), given.get("interpolation", "bicubic")
    if resize not in ("shortest", "squash"):
        raise ModelError(f"preprocess_cfg.resize_mode is {resize!r}; only shortest and squash are supported")
    if interpolation not in ("bicubic", "bilinear", "random"):
        raise ModelError(f"preprocess_cfg.interpolation is {interpolation!r}; only bicubic and bilinear are supported")
    default = ImagePreprocess(image_size)
    return ImagePreprocess(
        image_size=image_size,
        mean=_three(given.get("mean", default.mean), "preprocess_cfg.mean"),
        std=_three(given.get("std", default.std), "preprocess_cfg.std"),
        resize=resize,
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",  # random: in training only
    )


def read_image_processor(folder: Path) -> ImagePreprocess:
    """The image processor of a transformers folder, as the library itself completes and loads it.

    Raises:
        ModelError: there is none, or it does something else than resize, crop the centre and normalise.
    """
    processor = _load(folder)
    where = f"{folder}: {type(processor).__name__}"
    if changed := _steps_of_its_own(processor):
        raise ModelError(f"{where} has steps of its own ({', '.join(changed)}), which are not supported")
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if not getattr(processor, name, None):
            raise ModelError(f"{where} has {name} false, which is not supported")
    if getattr(processor, "do_pad", None):
        raise ModelError(f"{where} has do_pad true, which is not supported")
    if abs(processor.rescale_factor - _BYTES) > 1e-9:
        raise ModelError(f"{where} has rescale_factor {processor.rescale_factor}; only 1/255 is supported")
    size, crop = dict(processor.size), dict(processor.crop_size or {}) if processor.do_center_crop else None
    side, resize = _geometry(size, crop, where)
    return ImagePreprocess(
        image_size=side,
        mean=_three(processor.image_mean, f"{where}: image_mean"),
        std=_three(processor.image_std, f"{where}: image_std"),
        resize=resize,
        interpolation=_interpolation(processor.resample, where),
        crop_rounding="down" if resize == "shortest" else "even",
    )


def _load(folder: Path) -> Any:
    try:
        with quiet_transformers():
            return transformers.AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # missing file, unknown type, code of its own
        raise ModelError(f"{folder}: its image processor cannot be loaded: {one_line(error)}") from error


def _steps_of_its_own(processor: Any) -> list[str]:
    from transformers.image_processing_backends import PilBackend

    steps = ("_preprocess", "preprocess", "process_image", "resize", "center_crop", "rescale", "normalize")
    return [step for step in steps if getattr(type(processor), step) is not getattr(PilBackend, step)]


def _geometry(
    size: dict[str, int], crop: dict[str, int] | None, where: str
) -> tuple[int, Literal["shortest", "squash"]]:
    """The side of the picture that comes out, and how it comes about."""
    if set(size) == {"height", "width"} and size["height"] == size["width"]:
        if crop is None or crop == size:
            return size["height"], "squash"
    elif set(size) == {"shortest_edge"} and crop == {"height": size["shortest_edge"], "width": size["shortest_edge"]}:
        return size["shortest_edge"], "shortest"
    then = f" and then cropped to {crop}" if crop else ""
    raise ModelError(
        f"{where}: pictures resized to {size}{then} are not supported; resized and cropped to the same square they are"
    )


def _interpolation(resample: object, where: str) -> Literal["bicubic", "bilinear"]:
    number = getattr(resample, "value", resample)  # Pillow's
    if number == 3:
        return "bicubic"
    if number == 2:
        return "bilinear"
    raise ModelError(f"{where}: resample {number} is not supported; only 3 (bicubic) and 2 (bilinear) are")


def _three(values: object, where: str) -> tuple[float, float, float]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ModelError(f"{where} is {values}; it must be three numbers")
    return float(values[0]), float(values[1]), float(values[2])
