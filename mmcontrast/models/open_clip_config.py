"""Configs of open_clip towers: the named one, the user's fields, and what the checkpoint demands."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.towers import Pooling, one_line
from mmcontrast.preprocess import ImagePreprocess

Part = Literal["vision_cfg", "text_cfg"]

_FIELDS: dict[Part, set[str]] = {
    "vision_cfg": {f.name for f in fields(CLIPVisionCfg)},
    "text_cfg": {f.name for f in fields(CLIPTextCfg)},
}
_POOLING: dict[str, Pooling] = {"argmax": "eos", "eos": "eos", "first": "cls", "mean": "mean"}
# Keys of ours beside open_clip's own; with them the kwargs of a built tower describe it completely.
_OURS = {"quick_gelu", "embed_dim", "attend_padding"}


@dataclass(frozen=True)
class Recipe:
    """A tower's config with the three values that open_clip keeps beside it."""

    config: dict[str, Any]
    quick_gelu: bool
    embed_dim: int
    attend_padding: bool

    def kwargs(self) -> dict[str, Any]:
        """Fields of a tower spec that give this recipe again."""
        return {**self.config, "quick_gelu": self.quick_gelu, "embed_dim": self.embed_dim}


def read_recipe(spec: ImageTowerSpec | TextTowerSpec, part: Part, embed_dim: int) -> Recipe:
    """The named config with the fields of `spec.kwargs`; `embed_dim` is that of the model.

    Raises:
        ModelError: unknown name or field, or an activation that contradicts the checkpoint.
    """
    where = "model.image" if part == "vision_cfg" else "model.text"
    if unknown := sorted(set(spec.kwargs) - _FIELDS[part] - _OURS):
        near = [match for key in unknown for match in get_close_matches(key, _FIELDS[part], n=1)]
        hint = f"; did you mean {', '.join(near)}" if near else f"; known are {', '.join(sorted(_FIELDS[part]))}"
        raise ModelError(f"{where}.kwargs: open_clip has no field {', '.join(unknown)}{hint}")
    named = _named_config(spec.name, where) if spec.name else {}
    config = {**named.get(part, {}), **{k: v for k, v in spec.kwargs.items() if k not in _OURS}}
    if spec.pretrained and not named:
        raise ModelError(f"{where}: pretrained open_clip weights need a name; kwargs alone describe no checkpoint")
    if not config:
        raise ModelError(f"{where}: give name (an open_clip config) or kwargs (fields of its {part})")
    return Recipe(
        config=config,
        quick_gelu=_quick_gelu(spec, named),
        embed_dim=int(spec.kwargs.get("embed_dim", named["embed_dim"] if spec.pretrained else embed_dim)),
        attend_padding=part == "text_cfg" and _attends_padding(spec, config),
    )


def _named_config(name: str, where: str) -> dict[str, Any]:
    try:
        config = open_clip.get_model_config(name.replace("/", "-") if ":" not in name else name)
    except Exception as error:  # network, missing file, broken JSON
        raise ModelError(f"{where}.name {name!r}: its open_clip config cannot be read: {one_line(error)}") from error
    if config is None:
        near = get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ModelError(f"{where}.name: open_clip has no config {name!r}{hint}")
    return dict(config)


def _quick_gelu(spec: ImageTowerSpec | TextTowerSpec, named: dict[str, Any]) -> bool:
    """The activation that the weights were trained with; the wrong one costs accuracy without any error."""
    stated = spec.kwargs.get("quick_gelu", named.get("quick_gelu"))
    if not isinstance(spec.pretrained, str):
        return bool(stated)
    tag = open_clip.pretrained.get_pretrained_cfg((spec.name or "").replace("/", "-"), spec.pretrained)
    if not tag:
        return bool(stated)
    needed = bool(tag.get("quick_gelu", False))
    if stated is not None and bool(stated) != needed:
        raise ModelError(
            f"{spec.name} with pretrained {spec.pretrained!r}: the weights were trained with quick_gelu "
            f"{needed}, but the config says {bool(stated)}"
        )
    return needed


def _attends_padding(spec: ImageTowerSpec | TextTowerSpec, config: dict[str, Any]) -> bool:
    """Whether padding is read like words: so it is in open_clip's own towers without a causal mask."""
    default = bool(
        config.get("pool_type") == "last"
        or config.get("embed_cls")
        or (spec.name is not None and config.get("no_causal_mask"))
    )
    return bool(spec.kwargs.get("attend_padding", default))


def text_pooling(config: dict[str, Any], attend_padding: bool) -> Pooling | Literal["last"]:
    """How a text tower with this config becomes one vector.

    Raises:
        ModelError: an unknown pooling, or one that would give every caption the same vector.
    """
    pool_type = config.get("pool_type", "argmax")
    if pool_type == "last":
        if not attend_padding:
            raise ModelError("model.text.kwargs: pool_type last reads the padding; it needs attend_padding: true")
        return "last"
    if pool_type not in _POOLING:
        raise ModelError(f"model.text.kwargs: pool_type is {pool_type!r}; choose argmax, eos, first, last or mean")
    if pool_type == "first" and not config.get("no_causal_mask"):
        raise ModelError(
            "model.text.kwargs: pool_type first under a causal mask sees only the begin mark, the same for all "
            "captions; set no_causal_mask: true"
        )
    return _POOLING[pool_type]


def read_preprocess(visual: Any, spec: ImageTowerSpec) -> ImagePreprocess:
    """Of the checkpoint; the CLIP mean and standard deviation from scratch."""
    config = PreprocessCfg(**getattr(visual, "preprocess_cfg", {}))
    if config.resize_mode not in ("shortest", "squash"):
        raise ModelError(f"{spec.name}: pictures resized by {config.resize_mode!r} are not supported")
    return ImagePreprocess(
        image_size=spec.image_size,
        mean=tuple(config.mean),
        std=tuple(config.std),
        resize=config.resize_mode,
        interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
    )
