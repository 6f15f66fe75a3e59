"""Image towers of all libraries as open_clip's vision_cfg and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mmcontrast.export.open_clip_native import (
    HF_CLIP,
    HF_DINOV2,
    HF_VIT,
    TIMM,
    Activation,
    gelu_of,
    vision_transformer,
)
from mmcontrast.export.open_clip_parts import Head, Part, cannot, is_mlp, linear_head
from mmcontrast.models import DualEncoder
from mmcontrast.models.towers_open_clip import OpenClipImageTower
from mmcontrast.models.towers_timm import TimmImageTower
from mmcontrast.models.towers_transformers import TransformersImageTower

# Keys of ours in the description of an open_clip tower, and those that open_clip sets itself.
_NOT_THEIRS = {"quick_gelu", "embed_dim", "attend_padding", "timm_model_pretrained"}


def image_parts(model: DualEncoder) -> Iterator[Part]:
    """Ways to have the image tower in open_clip, the most natural first; the caller takes the first that fits.

    Raises:
        ModelError: while iterating: there is no (further) way.
    """
    tower: Any = model.image_encoder
    if isinstance(tower, TimmImageTower):
        yield from _timm(model, tower.trunk, model.spec.image.name or "", {})
    elif isinstance(tower, TransformersImageTower):
        yield _transformers(model, tower)
    elif isinstance(tower, OpenClipImageTower):
        yield from _open_clip(model, tower.visual)


def _open_clip(model: DualEncoder, visual: Any) -> Iterator[Part]:
    kwargs = model.spec.image.kwargs
    config = {key: value for key, value in kwargs.items() if key not in _NOT_THEIRS}
    config |= {"image_size": model.spec.image.image_size, "output_tokens": False}
    if isinstance(visual, TimmModel):
        yield from _timm(model, visual.trunk, str(config["timm_model_name"]), config, visual)
        return
    weights = visual.state_dict()
    head = linear_head([model.image_projection], "this image tower")
    if isinstance(visual, ModifiedResNet):
        weights |= _folded(weights, head)
        yield Part(config, weights, None)
        return
    if head.weight is not None:
        weights["proj"] = weights["proj"] @ head.weight.T if "proj" in weights else head.weight.T
    yield Part(config, weights, bool(kwargs.get("quick_gelu")))


def _folded(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    """The last layer of a ModifiedResNet's pooling with ours behind it."""
    if head.weight is None:
        return {}
    weight, bias = (weights[f"attnpool.c_proj.{kind}"].double() for kind in ("weight", "bias"))
    own = head.weight.double()
    return {"attnpool.c_proj.weight": own @ weight, "attnpool.c_proj.bias": own @ bias}


def _timm(
    model: DualEncoder, trunk: nn.Module, name: str, config: dict[str, Any], visual: TimmModel | None = None
) -> Iterator[Part]:
    """By its name, which open_clip hands to timm without any arguments; a ViT as open_clip's own class after that."""
    weights = {f"trunk.{key}": value for key, value in trunk.state_dict().items()}
    config = {**config, "timm_model_name": name, "image_size": model.spec.image.image_size}
    own = nn.Sequential() if visual is None else visual.head
    before = {f"head.{key}": value for key, value in own.state_dict().items()}
    if visual is not None and model.spec.image.projection == "none":
        yield Part(config, weights | before, None)
    else:
        weights |= {key: value for key, value in before.items() if key.startswith("head.pool.")}
        proj, layers = _timm_head(model)
        for pooling in [config["timm_pool"]] if "timm_pool" in config else _poolings(trunk):
            yield Part({**config, "timm_pool": pooling, **proj}, weights | layers, None)
    if isinstance(trunk, VisionTransformer):
        yield _timm_vit(model, trunk, linear_head([own, model.image_projection], f"{name} of timm"), name)


def _timm_head(model: DualEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """timm_proj and the weights of open_clip's head on a timm trunk."""
    projection = model.image_projection
    if not is_mlp(projection):
        head = linear_head([projection], "this image tower")
        if head.weight is None:
            return {"timm_proj": "none"}, {}
        return {"timm_proj": "linear", "timm_proj_bias": False}, {"head.proj.weight": head.weight}
    layers: Any = projection
    hidden, last = layers.hidden, layers.linear
    more = 2 * model.embed_dim - len(hidden.weight)  # open_clip's hidden layer has this size; units of zeros do nothing
    if more < 0:
        raise cannot(
            f"an mlp head of {len(hidden.weight)} hidden units on an image tower of timm: with model.embed_dim "
            f"{model.embed_dim} it builds one of {2 * model.embed_dim}"
        )
    pad = nn.functional.pad
    weights = {
        "head.mlp.fc1.weight": pad(hidden.weight.detach(), (0, 0, 0, more)),
        "head.mlp.fc1.bias": pad(hidden.bias.detach(), (0, more)),
        "head.mlp.fc2.weight": pad(last.weight.detach(), (0, more)),
    }
    return {"timm_proj": "mlp", "timm_proj_bias": False}, weights


def _poolings(trunk: nn.Module) -> list[str]:
    """Names to try for the trunk's own pooling; "" leaves it to timm, and so cannot stand with timm_proj none."""
    for module in (trunk, getattr(trunk, "head", None)):
        pool = getattr(module, "global_pool", None)
        name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if name:
            return [str(name), ""]
    return ["avg", ""]


def _timm_vit(model: DualEncoder, trunk: Any, head: Head, name: str) -> Part:
    state, where = trunk.state_dict(), f"{name} of timm"
    if getattr(trunk, "cls_token", None) is None or "pos_embed" not in state or trunk.num_prefix_tokens != 1:
        raise cannot(f"{where} at {model.spec.image.image_size} pixels")
    after = "fc_norm.weight" in state
    last = "fc_norm" if after else "norm"
    norms = {last: "ln_post", **({"norm_pre": "ln_pre"} if "norm_pre.weight" in state else {})}
    part = vision_transformer(
        state,
        TIMM,
        token=state["cls_token"],
        patches="patch_embed.proj",
        positions=state["pos_embed"][0],
        norms=norms,
        heads=trunk.blocks[0].attn.num_heads,
        eps=trunk.get_submodule(last).eps,
        activation=gelu_of(trunk.blocks[0].mlp.act, where),
        head=head,
        where=where,
        image_size=model.spec.image.image_size,
    )
    part.config.update(pool_type="tok" if trunk.global_pool == "token" else "avg", final_ln_after_pool=after)
    return part


def _transformers(model: DualEncoder, tower: TransformersImageTower) -> Part:
    """CLIP's, plain and DINOv2's vision transformers, which have a class token.

    Raises:
        ModelError: it is another net, or pooled in a way that open_clip does not know.
    """
    net: Any = tower.model
    config, kind = net.config, net.config.model_type
    where = f"the {kind} of transformers with pooling {tower.pooling}"
    names: dict[str, tuple[Any, ...]] = {
        "clip_vision_model": (HF_CLIP, ["pooler"], "embeddings.patch_embedding", "embeddings.class_embedding"),
        "vit": (HF_VIT, ["cls"], "embeddings.patch_embeddings.projection", "embeddings.cls_token"),
        "dinov2": (HF_DINOV2, ["cls", "pooler"], "embeddings.patch_embeddings.projection", "embeddings.cls_token"),
    }
    if kind not in names or tower.pooling not in names[kind][1]:
        raise cannot(where)
    source, _, patches, token = names[kind]
    state = net.state_dict()
    clip = kind == "clip_vision_model"
    norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"} if clip else {"layernorm": "ln_post"}
    return vision_transformer(
        state,
        source,
        token=state[token],
        patches=patches,
        positions=_positions(net, config.patch_size, model.spec.image.image_size),
        norms=norms,
        heads=config.num_attention_heads,
        eps=config.layer_norm_eps,
        activation=Activation.of(config.hidden_act, where),
        head=linear_head([tower.own_projection, model.image_projection], where),
        where=where,
        image_size=model.spec.image.image_size,
    )


def _positions(net: Any, patches: int, image_size: int) -> Tensor:
    """(n + 1, width) for the patches of pictures of this size."""
    count, width = (image_size // patches) ** 2 + 1, net.config.hidden_size
    with torch.no_grad():
        fitted: Tensor = net.embeddings.interpolate_pos_encoding(torch.empty(1, count, width), image_size, image_size)
    return fitted[0]
