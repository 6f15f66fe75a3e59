"""What single patches of a picture say: a vision transformer's tokens in the shared space.

The last block, which would mix the whole picture into every token, is run for each patch by itself, and so are the
tower's own pooling and head. Where they read the mean of the patches, or attend to them, the patch sees nothing but
itself: MaskCLIP's way (Zhou et al. 2022). Where they read a class token, that token sees itself and the one patch: what
it would take from there, as Gandelsman et al. (2024) take its sum apart. Earlier blocks are run on the whole picture.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmcontrast.errors import ModelError
from mmcontrast.models.dual_encoder import DualEncoder
from mmcontrast.models.towers import ImageTower


class _Trunk(NamedTuple):
    """The end of a vision transformer.

    Attributes:
        last: the last block, (b, t, width) to the same.
        prefix: tokens before the patches.
        patch: height and width of a patch, in pixels.
        by_class: whether the first token is what the tower's output is made of.
        finish: (n, 1, width) tokens of the last block to (n, output) of the tower.
    """

    last: nn.Module
    prefix: int
    patch: tuple[int, int]
    by_class: bool
    finish: Callable[[Tensor], Tensor]


def patch_features(model: DualEncoder, pixels: Tensor) -> Tensor:
    """L2-normalised features of every patch of b pictures, as the model stands, with gradients.

    Args:
        model: its image tower is a vision transformer of open_clip or timm, or CLIP's or SigLIP's of transformers.
        pixels: (b, 3, h, w) uint8, from the model's preprocess.

    Returns:
        (b, rows, columns, embed_dim).

    Raises:
        ModelError: the tower is of another kind, whose outputs stand for no places.
    """
    tower = model.image_encoder
    trunk = _trunk(tower)
    normalised = model.preprocess.normalise(pixels.to(model.device))
    tokens = _input_of(trunk.last, partial(tower, normalised.to(next(tower.parameters()).dtype)))
    alone = tokens[:, trunk.prefix :, None]  # (b, p, 1, width): p sequences of one token each
    if trunk.by_class:
        prefix = tokens[:, None, : trunk.prefix].expand(-1, alone.shape[1], -1, -1)
        alone = torch.cat([prefix, alone], dim=2)
    rows, columns = (side // size for side, size in zip(pixels.shape[-2:], trunk.patch, strict=True))
    read = _first(trunk.last(alone.flatten(0, 1), **_no_mask(trunk.last)))[:, :1]
    features = model.image_projection(trunk.finish(read))
    return functional.normalize(features.float(), dim=-1).view(len(pixels), rows, columns, -1)


def _input_of(block: nn.Module, run: Callable[[], object]) -> Tensor:
    """The tokens that a block is given."""
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def _no_mask(block: nn.Module) -> dict[str, Any]:
    """Layers of transformers insist on being told."""
    return {"attention_mask": None} if hasattr(block, "self_attn") else {}


def _trunk(tower: ImageTower) -> _Trunk:
    module: Any = tower
    for library, attribute, find in (
        ("open_clip", "visual", _of_open_clip),
        ("timm", "trunk", _of_timm),
        ("transformers", "model", partial(_of_transformers, tower)),
    ):
        # What is not imported has built no tower, and need not be imported for this.
        if library in sys.modules and hasattr(module, attribute):
            found = find(getattr(module, attribute))
            if found is not None:
                return found
            break
    inner = next((getattr(tower, name) for name in ("visual", "trunk", "model") if hasattr(tower, name)), tower)
    raise ModelError(
        f"heat maps need an image tower of patches, a vision transformer of open_clip or timm, or CLIP's or SigLIP's "
        f"of transformers; this one is a {type(getattr(inner, 'trunk', inner)).__name__}"
    )


def _of_open_clip(visual: Any) -> _Trunk | None:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, TimmModel):
        trunk = _of_timm(visual.trunk)
        return None if trunk is None else trunk._replace(finish=lambda tokens: visual.head(trunk.finish(tokens)))
    if not isinstance(visual, VisionTransformer):
        return None
    whole: Any = visual

    def finish(tokens: Tensor) -> Tensor:
        pooled: Tensor = whole.ln_post(tokens[:, 0]) if whole.attn_pool is None else whole._pool(tokens)[0]
        return pooled if whole.proj is None else pooled @ whole.proj

    height, width = whole.patch_size
    by_class = whole.attn_pool is None and whole.pool_type == "tok"
    return _Trunk(whole.transformer.resblocks[-1], 1, (height, width), by_class, finish)


def _of_timm(trunk: Any) -> _Trunk | None:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(trunk, VisionTransformer) or hasattr(trunk, "dist_token"):  # that one has two heads
        return None
    whole: Any = trunk

    def finish(tokens: Tensor) -> Tensor:
        tokens = whole.norm(tokens)
        pooled = tokens[:, 0] if whole.attn_pool is None else whole.attn_pool(tokens)
        output: Tensor = whole.head(whole.head_drop(whole.fc_norm(pooled)))
        return output

    height, width = whole.patch_embed.patch_size
    by_class = whole.attn_pool is None and whole.global_pool == "token"
    return _Trunk(whole.blocks[-1], whole.num_prefix_tokens, (height, width), by_class, finish)


def _of_transformers(tower: Any, model: Any) -> _Trunk | None:
    kind = model.config.model_type
    if kind not in ("clip_vision_model", "siglip_vision_model"):
        return None

    def finish(tokens: Tensor) -> Tensor:
        pooled: Tensor
        if kind == "siglip_vision_model":
            normed = model.post_layernorm(tokens)
            pooled = model.head(normed) if tower.pooling == "pooler" else normed[:, 0]
        else:
            pooled = model.post_layernorm(tokens[:, 0]) if tower.pooling == "pooler" else tokens[:, 0]
        return pooled if tower.own_projection is None else tower.own_projection(pooled)

    size = int(model.config.patch_size)
    has_class = kind == "clip_vision_model"
    by_class = has_class and tower.pooling != "mean"
    return _Trunk(model.encoder.layers[-1], int(has_class), (size, size), by_class, finish)


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
