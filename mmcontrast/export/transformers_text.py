"""Text towers as classes of transformers."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

from mmcontrast.export.bag_of_words import bag_of_words
from mmcontrast.export.transformers_clip import check_eos, clip_mean, clip_text, own_projection
from mmcontrast.export.transformers_parts import (
    LABEL_TOKENS,
    NEARLY_LINEAR,
    OTHERS,
    Part,
    cannot,
    head_of,
    lengthen,
    state_of,
)
from mmcontrast.export.transformers_pooling import linear, mean_layer, plain_norm
from mmcontrast.export.transformers_siglip import check_padded, project, siglip_text
from mmcontrast.models import DualEncoder

_BERTS = {"bert", "roberta", "xlm-roberta", "camembert"}
"""Their layers and poolers are the same, by the same names."""


def text_part(model: DualEncoder) -> Part:
    """The text tower and its head.

    Raises:
        ModelError: transformers has nothing like it.
    """
    tower: Any = model.text_encoder
    tokenizer, library = model.tokenizer, model.spec.text.library
    if library == "bag_of_words":
        return bag_of_words(tower, head_of(model.text_projection, None, "text"), tokenizer.pad_id)
    if library == "open_clip" and tower.pooling == "last" and tower.text.attn_mask is None:
        return siglip_text(tower, model.text_projection, tokenizer.pad_id)
    if library == "open_clip":
        head = head_of(model.text_projection, own_projection(tower.text.text_projection), "text")
        return clip_text(tower, tokenizer.eos_id, tokenizer.pad_id, tokenizer.bos_id, head)
    own = None if tower.own_projection is None else tower.own_projection.weight.detach()
    config = tower.model.config.__class__.from_dict(tower.model.config.to_dict())
    weights = state_of(tower.model)
    if config.model_type == "siglip_text_model":
        return _siglip(config, weights, model.text_projection)
    head = head_of(model.text_projection, own, "text")
    if config.model_type == "clip_text_model":
        return _clip(config, weights, tower.pooling, tokenizer.eos_id, head)
    if config.model_type == "distilbert":
        config, weights = _undistil(config, weights)
    if config.model_type in _BERTS:
        return _bert(config, weights, tower.pooling, head)
    raise cannot(
        f"a dual encoder with the text tower {config.model_type}",
        f"it takes CLIP, SigLIP, distilbert and {', '.join(sorted(_BERTS))}; {OTHERS}",
    )


def _clip(config: Any, weights: dict[str, Tensor], pooling: str, eos_id: int, head: Tensor | None) -> Part:
    check_eos(eos_id)
    table = lengthen(weights["embeddings.position_embedding.weight"], LABEL_TOKENS)
    config.eos_token_id, config.max_position_embeddings = eos_id, len(table)
    part = Part(config, {**weights, "embeddings.position_embedding.weight": table.contiguous()}, head)
    return part if pooling == "eos" else clip_mean(part)


def _siglip(config: Any, weights: dict[str, Tensor], projection: nn.Module) -> Part:
    check_padded(config.max_position_embeddings)
    weight, bias = project(projection, weights["head.weight"], weights["head.bias"])
    config.projection_size = len(weight)
    return Part(config, {**weights, "head.weight": weight.detach(), "head.bias": bias.detach()}, None)


def _bert(config: Any, weights: dict[str, Tensor], pooling: str, head: Tensor | None) -> Part:
    """BERT and its kin, whose own pooler is the first token behind a layer with a tanh."""
    name = "embeddings.position_embeddings.weight"
    spare = 0 if config.model_type == "bert" else config.pad_token_id + 1  # RoBERTa counts from behind its padding
    table = lengthen(weights[name], LABEL_TOKENS + spare).contiguous()
    config.max_position_embeddings, weights[name] = len(table), table
    if pooling == "pooler":
        return Part(config, weights, head)
    width = config.hidden_size
    matrix = torch.eye(width) if head is None else head
    if pooling == "mean":
        matrix = _add_mean(config, weights, matrix)
    elif pooling != "cls":
        raise cannot(f"{config.model_type} pooled by {pooling}, only by its pooler, first token or mean")
    weights |= linear("pooler.dense", NEARLY_LINEAR * torch.eye(width))
    return Part(config, weights, matrix / NEARLY_LINEAR)


def _add_mean(config: Any, weights: dict[str, Tensor], head: Tensor) -> Tensor:
    """One more layer, after which the first token holds the mean of all; returns the head behind it."""
    width, between = config.hidden_size, config.intermediate_size
    written, rest = mean_layer(head, f"a {config.model_type}")
    at = f"encoder.layer.{config.num_hidden_layers}"
    weights |= {
        **linear(f"{at}.attention.self.query", torch.zeros(width, width)),
        **linear(f"{at}.attention.self.key", torch.zeros(width, width)),
        **linear(f"{at}.attention.self.value", torch.eye(width)),
        **linear(f"{at}.attention.output.dense", written),
        **plain_norm(f"{at}.attention.output.LayerNorm", width),
        **linear(f"{at}.intermediate.dense", torch.zeros(between, width)),
        **linear(f"{at}.output.dense", torch.zeros(width, between)),
        **plain_norm(f"{at}.output.LayerNorm", width),
    }
    config.num_hidden_layers += 1
    return rest


_DISTILLED = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


def _undistil(config: Any, weights: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """DistilBERT, which has no pooler, as the BERT that it is but for names and token types."""
    renamed = {}
    for name, value in weights.items():
        match = re.fullmatch(r"transformer\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        renamed[f"encoder.layer.{match[1]}.{_DISTILLED[match[2]]}.{match[3]}" if match else name] = value
    renamed["embeddings.token_type_embeddings.weight"] = torch.zeros(2, config.dim)
    bert = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=config.hidden_dim,
        hidden_act=config.activation,
        max_position_embeddings=config.max_position_embeddings,
        pad_token_id=config.pad_token_id,
    )
    return bert, renamed
