"""Image towers of timm."""

from __future__ import annotations

import json
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import timm
import timm.data
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models.patch_dropout import set_patch_dropout
from mmcontrast.models.spec import ImageTowerSpec
from mmcontrast.models.towers import BuiltImageTower, ImageTower, one_line, probe_image
from mmcontrast.preprocess import ImagePreprocess


class TimmImageTower(ImageTower):
    """A timm trunk without its classifier."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) normalised -> (b, width)."""
        output: Tensor = self.trunk(pixels)
        return output

    def set_patch_dropout(self, share: float) -> bool:
        """Only vision transformers can."""
        return set_patch_dropout(self.trunk, share)

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Most trunks can."""
        trunk: Any = self.trunk
        try:
            trunk.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError):
            return False
        return True


def build_image_tower(spec: ImageTowerSpec) -> BuiltImageTower:
    """The timm model `spec.name` without classifier; `pretrained` is True, a tag or a weight file.

    Raises:
        ModelError: unknown name, tag or argument, or weights that cannot be had.
    """
    name, kwargs = _architecture(spec)
    if "img_size" not in kwargs and _needs_size(name):
        kwargs["img_size"] = spec.image_size
    source = {"pretrained": bool(spec.pretrained), **_weights(spec)}
    loaded_from = spec.name if ":" in (spec.name or "") and spec.pretrained else _tagged(name, spec.pretrained)
    try:
        trunk = timm.create_model(loaded_from, num_classes=0, **source, **kwargs)
    except Exception as error:  # unknown keys, failed downloads, shape errors: timm raises of all kinds
        raise ModelError(f"model.image: timm cannot build {spec.name}: {one_line(error)}") from error
    resolved = replace(spec, name=name, pretrained=False, kwargs=kwargs)
    tower = TimmImageTower(trunk)
    return BuiltImageTower(tower, probe_image(tower, spec.image_size), resolved, _preprocess(trunk, spec))


def _architecture(spec: ImageTowerSpec) -> tuple[str, dict[str, Any]]:
    """The registered name and all arguments, also of a model folder or Hub repository."""
    if not spec.name:
        raise ModelError("model.image.name is missing: timm needs the name of an architecture")
    where, _, place = spec.name.partition(":")
    try:
        if where == "local-dir":
            config = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
            name, arguments = str(config["architecture"]), config.get("model_args")
        elif where == "hf-hub":
            _, name, arguments = timm.models.load_model_config_from_hf(place)
        else:
            name, arguments = spec.name, {}
    except Exception as error:  # network, missing file, broken JSON
        raise ModelError(f"model.image.name {spec.name!r}: its config cannot be read: {one_line(error)}") from error
    if not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ModelError(f"model.image.name: timm has no model {name!r}{hint}")
    kept = {key: value for key, value in (arguments or {}).items() if key != "num_classes"}  # the classifier goes
    return name, {**kept, **spec.kwargs}


def _needs_size(name: str) -> bool:
    """Whether the architecture is built for one input size (transformers, mostly)."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # unknown tag: reported when the model is created
        return False
    return bool(config and config.fixed_input_size)


def _weights(spec: ImageTowerSpec) -> dict[str, Any]:
    path = Path(spec.pretrained) if isinstance(spec.pretrained, str) else None
    if path is None or not path.suffix:
        return {}
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin") and not path.is_file():
        raise ModelError(f"model.image.pretrained: there is no file {path}")
    return {"pretrained_cfg_overlay": {"file": str(path)}} if path.is_file() else {}


def _tagged(name: str, pretrained: bool | str) -> str:
    if not isinstance(pretrained, str) or Path(pretrained).is_file():
        return name
    return f"{name.partition('.')[0]}.{pretrained}"


def _preprocess(trunk: Any, spec: ImageTowerSpec) -> ImagePreprocess:
    """Of the pretrained weights; the CLIP mean and standard deviation from scratch."""
    if not spec.pretrained:
        return ImagePreprocess(spec.image_size)
    config = timm.data.resolve_model_data_config(trunk)
    resize: Literal["shortest", "squash"] = "squash" if config["crop_mode"] == "squash" else "shortest"
    return ImagePreprocess(
        image_size=spec.image_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=resize,
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )
