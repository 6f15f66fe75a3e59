"""open_clip's own vision and text transformers as the towers of transformers' CLIP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPVisionConfig

from mmcontrast.export.transformers_parts import LABEL_TOKENS, Part, activation, cannot, epsilon, lengthen
from mmcontrast.export.transformers_pooling import linear, mean_layer, plain_norm
from mmcontrast.models.towers_open_clip import OpenClipTextTower

# transformers' CLIP with this id for its end mark searches the greatest id of a caption instead.
_FORBIDDEN_EOS = 2


def clip_vision(visual: Any, image_size: int, head: Tensor | None) -> Part:
    """A `VisionTransformer` of open_clip as a `CLIPVisionModel`.

    Raises:
        ModelError: its pooling, norms or blocks differ from CLIP's.
    """
    if visual.attn_pool is not None or visual.pool_type != "tok":
        raise cannot("an open_clip vision transformer that does not pool at the class token (pool_type: tok)")
    if not isinstance(visual.ln_pre, nn.LayerNorm):
        raise cannot("an open_clip vision transformer without the norm before its blocks (no_ln_pre)")
    width, patch = visual.conv1.out_channels, visual.conv1.kernel_size[0]
    config = CLIPVisionConfig(
        **sizes(visual.transformer, [visual.ln_pre, visual.ln_post]),
        image_size=image_size,
        patch_size=patch,
        projection_dim=width if head is None else len(head),
    )
    weights = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
        **norm("pre_layrnorm", visual.ln_pre),
        **blocks(visual.transformer),
        **norm("post_layernorm", visual.ln_post),
    }
    return Part(config, dense(weights), head)


def clip_text(tower: OpenClipTextTower, eos_id: int, pad_id: int, bos_id: int | None, head: Tensor | None) -> Part:
    """A causal `TextTransformer` of open_clip, pooled at its end mark or by its mean, as a `CLIPTextModel`.

    Raises:
        ModelError: it reads to both sides, pools elsewhere, or its end mark is id 2.
    """
    text = tower.text
    if text.attn_mask is None or text.cls_emb is not None:
        raise cannot("an open_clip text transformer without a causal mask, or with a class token (as in CoCa)")
    if tower.pooling not in ("eos", "mean"):
        raise cannot(f"a causal text transformer pooled by {tower.pooling}, only by its end mark or mean")
    check_eos(eos_id)
    positions = lengthen(text.positional_embedding, LABEL_TOKENS)
    config = CLIPTextConfig(
        **sizes(text.transformer, [text.ln_final]),
        vocab_size=text.vocab_size,
        max_position_embeddings=len(positions),
        projection_dim=text.width if head is None else len(head),
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        bos_token_id=bos_id,
    )
    weights = {
        "embeddings.token_embedding.weight": text.token_embedding.weight,
        "embeddings.position_embedding.weight": positions,
        **blocks(text.transformer),
        **norm("final_layer_norm", text.ln_final),
    }
    part = Part(config, dense(weights), head)
    return part if tower.pooling == "eos" else clip_mean(part)


def clip_mean(part: Part) -> Part:
    """A CLIP text tower with one more layer, after which its end mark holds the mean of all tokens.

    Raises:
        ModelError: see `mean_layer`.
    """
    config, weights = part.config, part.weights
    width, between = config.hidden_size, config.intermediate_size
    written, rest = mean_layer(torch.eye(width) if part.head is None else part.head, "a CLIP text tower")
    at, last = f"encoder.layers.{config.num_hidden_layers}", "final_layer_norm"
    more = {
        f"{at}.layer_norm1.weight": weights[f"{last}.weight"],  # the mean is that of normed tokens
        f"{at}.layer_norm1.bias": weights[f"{last}.bias"],
        **linear(f"{at}.self_attn.q_proj", torch.zeros(width, width)),
        **linear(f"{at}.self_attn.k_proj", torch.zeros(width, width)),
        **linear(f"{at}.self_attn.v_proj", torch.eye(width)),
        **linear(f"{at}.self_attn.out_proj", written),
        **plain_norm(f"{at}.layer_norm2", width),
        **linear(f"{at}.mlp.fc1", torch.zeros(between, width)),
        **linear(f"{at}.mlp.fc2", torch.zeros(width, between)),
        **plain_norm(last, width),
    }
    config.num_hidden_layers += 1
    return Part(config, {**weights, **more}, rest)


def check_eos(eos_id: int) -> None:
    """Refuse the one end mark by which transformers would give all captions the same embedding, silently."""
    if eos_id == _FORBIDDEN_EOS:
        raise cannot(
            f"a CLIP text tower whose end mark has id {_FORBIDDEN_EOS}: it would pool at the greatest id instead",
            "train with a vocabulary whose end mark has another id",
        )


def own_projection(projection: Any) -> Tensor | None:
    """A projection of open_clip, parameter (width, out) or linear layer, as (out, width).

    Raises:
        ModelError: it has a bias.
    """
    if projection is None:
        return None
    if not isinstance(projection, nn.Linear):
        return torch.as_tensor(projection).detach().T
    if projection.bias is not None and bool(projection.bias.any()):
        raise cannot("a projection with a bias (proj_bias) in a CLIP text tower")
    return projection.weight.detach()


def blocks(transformer: Any) -> dict[str, Tensor]:
    """Weights of open_clip's residual blocks by the names of `CLIPEncoder`."""
    found: dict[str, Tensor] = {}
    for number, block in enumerate(transformer.resblocks):
        if type(block).__name__ != "ResidualAttentionBlock" or not isinstance(block.attn, nn.MultiheadAttention):
            raise cannot("open_clip's blocks with further norms or scales (block_type custom, qk_norm, scale_fc ...)")
        at = f"encoder.layers.{number}"
        for name, weight, bias in zip(
            "qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True
        ):
            found |= {f"{at}.self_attn.{name}_proj.weight": weight, f"{at}.self_attn.{name}_proj.bias": bias}
        found |= {
            **norm(f"{at}.layer_norm1", block.ln_1),
            **_scaled(f"{at}.self_attn.out_proj", block.attn.out_proj, block.ls_1),
            **norm(f"{at}.layer_norm2", block.ln_2),
            **_scaled(f"{at}.mlp.fc1", block.mlp.c_fc, None),
            **_scaled(f"{at}.mlp.fc2", block.mlp.c_proj, block.ls_2),
        }
    return found


def norm(name: str, layer: nn.LayerNorm) -> dict[str, Tensor]:
    """Its two weights under `name`."""
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


def dense(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached, and each in memory of its own."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}


def _scaled(name: str, layer: nn.Linear, scale: Any) -> dict[str, Tensor]:
    """A linear layer with the factors (LayerScale) that follow it."""
    gamma = getattr(scale, "gamma", None)
    weight, bias = layer.weight, layer.bias
    return {
        f"{name}.weight": weight if gamma is None else gamma[:, None] * weight,
        f"{name}.bias": bias if gamma is None else gamma * bias,
    }


def sizes(transformer: Any, norms: list[nn.LayerNorm]) -> dict[str, Any]:
    """Fields that the configs of both towers have."""
    first = transformer.resblocks[0]
    return {
        "hidden_size": first.ln_1.normalized_shape[0],
        "intermediate_size": first.mlp.c_fc.out_features,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": first.attn.num_heads,
        "hidden_act": activation(first.mlp.gelu),
        "layer_norm_eps": epsilon([*norms, *(n for b in transformer.resblocks for n in (b.ln_1, b.ln_2))]),
    }
