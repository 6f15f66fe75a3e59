"""Image towers as classes of transformers."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import TimmWrapperConfig

from mmcontrast.export.transformers_clip import clip_vision, own_projection
from mmcontrast.export.transformers_parts import OTHERS, Part, cannot, head_of, prefixed, state_of
from mmcontrast.export.transformers_siglip import is_siglip_trunk, siglip_vision
from mmcontrast.models import DualEncoder

_TANH_POOLERS = {"vit", "deit"}


def vision_part(model: DualEncoder, siglip: bool) -> Part:
    """The image tower and its head.

    Args:
        model: of which it is.
        siglip: whether the text tower is SigLIP's: then the image tower has to be, too.

    Raises:
        ModelError: transformers has nothing like it.
    """
    tower: Any = model.image_encoder
    library, size = model.spec.image.library, model.preprocess.image_size
    if siglip:
        return _siglip(model)
    if library == "timm":
        spec = model.spec.image
        head = head_of(model.image_projection, None, "image")
        return _timm(str(spec.name), spec.kwargs, tower.trunk, head, model.embed_dim)
    if library == "transformers":
        return _transformers(tower, model.spec.image.image_size, model.image_projection)
    visual = tower.visual
    if type(visual).__name__ == "VisionTransformer":
        own = own_projection(visual.proj)
        return clip_vision(visual, size, head_of(model.image_projection, own, "image"))
    if hasattr(visual, "trunk"):
        return _open_clip_timm(visual, model)
    raise cannot(f"open_clip's {type(visual).__name__}", f"the format open_clip can hold it, {OTHERS}")


def _siglip(model: DualEncoder) -> Part:
    tower: Any = model.image_encoder
    what = "a SigLIP text tower beside this image tower"
    if dict(model.image_projection.named_children()).keys() - {"dropout"}:
        raise cannot(f"{what}, as SigLIP has no head on images", f"set model.image.projection: none; {OTHERS}")
    if model.spec.image.library == "transformers":
        part = _transformers(tower, model.spec.image.image_size, model.image_projection)
        if part.config.model_type == "siglip_vision_model" and part.head is None:
            return part
        raise cannot(what)
    visual = getattr(tower, "visual", None)
    trunk = getattr(tower if visual is None else visual, "trunk", None)
    behind = [] if visual is None else list(getattr(visual, "head", nn.Sequential()).children())
    if not is_siglip_trunk(trunk) or not all(isinstance(layer, nn.Identity | nn.Dropout) for layer in behind):
        raise cannot(what)
    return siglip_vision(trunk, model.preprocess.image_size)


def _timm(name: str, arguments: dict[str, Any], trunk: nn.Module, head: Tensor | None, embed_dim: int) -> Part:
    """Any model of timm: transformers has a wrapper for them, which needs timm installed."""
    width = embed_dim if head is None else head.shape[1]
    # The wrapper's config has no hidden_size of its own, but the dual encoder asks for it.
    config = TimmWrapperConfig(architecture=name, model_args=arguments, hidden_size=width, num_labels=0)
    return Part(config, prefixed("timm_model.", state_of(trunk)), head)


def _open_clip_timm(visual: Any, model: DualEncoder) -> Part:
    """A trunk of timm that open_clip has built, with a linear layer behind it at most."""
    recipe = model.spec.image.kwargs
    layers = {name: layer for name, layer in visual.head.named_children() if not isinstance(layer, nn.Identity)}
    if further := sorted(layers.keys() - {"drop", "proj"}):
        raise cannot(f"the {further[0]} of open_clip's timm towers", f"the format open_clip can hold it, {OTHERS}")
    pool = recipe.get("timm_pool", "avg")
    arguments: dict[str, Any] = {"global_pool": pool} if pool else {}
    if hasattr(visual.trunk, "set_input_size"):
        arguments["img_size"] = model.preprocess.image_size
    name, shapes = str(recipe["timm_model_name"]), _shapes(visual.trunk)
    # open_clip sets the pooling afterwards, which does not move the last norm behind it.
    for found in (arguments, {**arguments, "fc_norm": False}):
        try:
            with torch.device("meta"):
                same = timm.create_model(name, num_classes=0, **found)
        except (RuntimeError, TypeError, ValueError):
            continue
        if _shapes(same) == shapes:
            break
    else:
        raise cannot(f"{name} as open_clip builds it", f"the format open_clip can hold it, {OTHERS}")
    head = head_of(model.image_projection, own_projection(layers.get("proj")), "image")
    return _timm(name, found, visual.trunk, head, model.embed_dim)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _transformers(tower: Any, image_size: int, projection: nn.Module) -> Part:
    own = None if tower.own_projection is None else tower.own_projection.weight.detach()
    head = head_of(projection, own, "image")
    trunk = tower.model
    config = trunk.config.__class__.from_dict(trunk.config.to_dict())
    kind, weights = config.model_type, state_of(trunk)
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise cannot(f"a dual encoder with {kind}, whose config has no hidden_size", f"take it from timm; {OTHERS}")
    if tower.arguments:
        weights |= _interpolated(trunk, image_size)
        config.image_size = image_size
    if tower.pooling == "cls" and kind in _TANH_POOLERS:
        config.pooler_act, config.pooler_output_size = "linear", config.hidden_size
        weights |= {
            "pooler.dense.weight": torch.eye(config.hidden_size),
            "pooler.dense.bias": torch.zeros(config.hidden_size),
        }
    elif tower.pooling != "pooler":
        raise cannot(f"{kind} pooled by {tower.pooling} in a dual encoder")
    return Part(config, weights, head)


def _interpolated(trunk: Any, image_size: int) -> dict[str, Tensor]:
    """Position embeddings for pictures of another size than the tower's own, as it interpolates them itself."""
    names = ("embeddings.position_embedding.weight", "embeddings.position_embeddings")
    name = next((name for name in names if name in trunk.state_dict()), None)
    if name is None or not isinstance(trunk.config.patch_size, int):
        raise cannot(
            f"a {trunk.config.model_type} for {trunk.config.image_size} pixels that reads {image_size}",
            f"set model.image.image_size to {trunk.config.image_size}; {OTHERS}",
        )
    own = trunk.state_dict()[name]
    marks = own.shape[-2] - (trunk.config.image_size // trunk.config.patch_size) ** 2
    rows = marks + (image_size // trunk.config.patch_size) ** 2
    with torch.no_grad():
        table: Tensor = trunk.embeddings.interpolate_pos_encoding(
            own.new_zeros(1, rows, own.shape[-1]), image_size, image_size
        )
    return {name: (table if own.ndim == table.ndim else table[0]).contiguous()}
