"""timm's and open_clip's towers of SigLIP as those of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipTextConfig, SiglipVisionConfig

from mmcontrast.export.transformers_clip import blocks, dense, norm, sizes
from mmcontrast.export.transformers_parts import Part, activation, cannot, epsilon
from mmcontrast.models.towers_open_clip import OpenClipTextTower

_PADDED = 64
"""Tokens to which transformers' pipeline fills every caption of SigLIP, whatever the model says."""


def check_padded(positions: int) -> None:
    """Refuse a text tower that reads another length than transformers gives it.

    Raises:
        ModelError: its captions are not filled to 64 tokens.
    """
    if positions != _PADDED:
        raise cannot(
            f"a SigLIP text tower that fills captions to {positions} tokens, as its pipeline fills them to {_PADDED}",
            f"set model.text.context_length to {_PADDED}; the format onnx can hold it as it is",
        )


def siglip_text(tower: OpenClipTextTower, projection: nn.Module, pad_id: int) -> Part:
    """open_clip's text transformer that reads its padding and pools at the last position, as a `SiglipTextModel`.

    Args:
        tower: with or without a projection of its own.
        projection: ours; linear, or none.
        pad_id: of the tokenizer.

    Raises:
        ModelError: it reads another length than transformers gives it, or a head has two layers.
    """
    text = tower.text
    check_padded(tower.positions)
    own: Any = text.text_projection
    if not isinstance(own, nn.Linear):
        weight, bias = project(projection, torch.eye(text.width) if own is None else own.T, None)
    else:
        weight, bias = project(projection, own.weight, own.bias)
    config = SiglipTextConfig(
        **sizes(text.transformer, [text.ln_final]),
        vocab_size=text.vocab_size,
        max_position_embeddings=_PADDED,
        projection_size=len(weight),
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=None,
    )
    weights = {
        "embeddings.token_embedding.weight": text.token_embedding.weight,
        "embeddings.position_embedding.weight": text.positional_embedding,
        **blocks(text.transformer),
        **norm("final_layer_norm", text.ln_final),
        "head.weight": weight,
        "head.bias": bias,
    }
    return Part(config, dense(weights), None)


def project(projection: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A linear layer of SigLIP's text tower with ours behind it, as one.

    Raises:
        ModelError: ours has two layers.
    """
    layers = dict(projection.named_children())
    if "hidden" in layers:
        raise cannot("a head of two layers (model.text.projection: mlp), only a linear one")
    bias = torch.zeros(len(weight)) if bias is None else bias
    linear = layers.get("linear")
    if not isinstance(linear, nn.Linear):
        return weight, bias
    return linear.weight @ weight, linear.weight @ bias


def is_siglip_trunk(trunk: Any) -> bool:
    """Whether it is a vision transformer of timm that differs in nothing from SigLIP's."""
    pool = getattr(trunk, "attn_pool", None)
    if type(trunk).__name__ != "VisionTransformer" or type(pool).__name__ != "AttentionPoolLatent":
        return False
    assert pool is not None
    nothing = [trunk.norm_pre, trunk.fc_norm, pool.q_norm, pool.k_norm]
    for block in trunk.blocks:
        nothing += [block.attn.q_norm, block.attn.k_norm, getattr(block.attn, "norm", nn.Identity())]
        nothing += [block.ls1, block.ls2, getattr(block.mlp, "norm", nn.Identity())]
    return (
        all(isinstance(layer, nn.Identity) for layer in nothing)
        and trunk.cls_token is None
        and getattr(trunk, "reg_token", None) is None
        and pool.pos_embed is None
        and pool.latent_len == 1
        and isinstance(pool.q, nn.Linear)
        and all(type(block).__name__ == "Block" for block in trunk.blocks)
    )


def siglip_vision(trunk: Any, image_size: int) -> Part:
    """A trunk of which `is_siglip_trunk` is true, as a `SiglipVisionModel`; without a head."""
    pool, first = trunk.attn_pool, trunk.blocks[0]
    norms = [trunk.norm, pool.norm, *(layer for block in trunk.blocks for layer in (block.norm1, block.norm2))]
    config = SiglipVisionConfig(
        hidden_size=trunk.embed_dim,
        intermediate_size=first.mlp.fc1.out_features,
        num_hidden_layers=len(trunk.blocks),
        num_attention_heads=first.attn.num_heads,
        image_size=image_size,
        patch_size=trunk.patch_embed.proj.kernel_size[0],
        hidden_act=activation(first.mlp.act),
        layer_norm_eps=epsilon(norms),
    )
    weights = {
        **_linear("embeddings.patch_embedding", trunk.patch_embed.proj),
        "embeddings.position_embedding.weight": trunk.pos_embed[0],
        **norm("post_layernorm", trunk.norm),
        "head.probe": pool.latent,
        "head.attention.in_proj_weight": torch.cat([pool.q.weight, pool.kv.weight]),
        "head.attention.in_proj_bias": torch.cat([pool.q.bias, pool.kv.bias]),
        **_linear("head.attention.out_proj", pool.proj),
        **norm("head.layernorm", pool.norm),
        **_linear("head.mlp.fc1", pool.mlp.fc1),
        **_linear("head.mlp.fc2", pool.mlp.fc2),
    }
    for number, block in enumerate(trunk.blocks):
        at = f"encoder.layers.{number}"
        for name, weight, bias in zip("qkv", block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True):
            weights |= {f"{at}.self_attn.{name}_proj.weight": weight, f"{at}.self_attn.{name}_proj.bias": bias}
        weights |= {
            **norm(f"{at}.layer_norm1", block.norm1),
            **_linear(f"{at}.self_attn.out_proj", block.attn.proj),
            **norm(f"{at}.layer_norm2", block.norm2),
            **_linear(f"{at}.mlp.fc1", block.mlp.fc1),
            **_linear(f"{at}.mlp.fc2", block.mlp.fc2),
        }
    return Part(config, dense(weights), None)


def _linear(name: str, layer: Any) -> dict[str, Tensor]:
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
