"""Text towers as classes of transformers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmcontrast.export.bag_of_words import bag_of_words
from mmcontrast.export.transformers_clip import check_eos, clip_text, own_projection
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
from mmcontrast.export.transformers_siglip import check_padded, project, siglip_text
from mmcontrast.models import DualEncoder

_BERTS = {"bert", "roberta", "xlm-roberta", "camembert"}
"""Their layers and poolers are the same, by the same names."""

_LOUD = 2.0**23
"""Factor beside which a residual of about 1 is lost in rounding."""


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
    if config.model_type in _BERTS:
        return _bert(config, weights, tower.pooling, head)
    raise cannot(
        f"a dual encoder with the text tower {config.model_type}",
        f"it takes CLIP, SigLIP and {', '.join(sorted(_BERTS))}; {OTHERS}",
    )


def _clip(config: Any, weights: dict[str, Tensor], pooling: str, eos_id: int, head: Tensor | None) -> Part:
    if pooling != "eos":
        raise cannot(f"a CLIP text tower pooled by {pooling}, only by its end mark (pooling: eos)")
    check_eos(eos_id)
    table = lengthen(weights["embeddings.position_embedding.weight"], LABEL_TOKENS)
    config.eos_token_id, config.max_position_embeddings = eos_id, len(table)
    return Part(config, {**weights, "embeddings.position_embedding.weight": table.contiguous()}, head)


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
    width = config.hidden_size
    matrix = torch.eye(width) if head is None else head
    if pooling == "pooler":
        return Part(config, weights, head)
    if pooling == "mean":
        matrix = _add_mean(config, weights, matrix)
    elif pooling != "cls":
        raise cannot(f"{config.model_type} pooled by {pooling}, only by its pooler, first token or mean")
    weights["pooler.dense.weight"] = NEARLY_LINEAR * torch.eye(width)
    weights["pooler.dense.bias"] = torch.zeros(width)
    return Part(config, weights, matrix / NEARLY_LINEAR)


def _add_mean(config: Any, weights: dict[str, Tensor], head: Tensor) -> Tensor:
    """One more layer, after which the first token holds the mean of all, projected; returns what is left to project.

    With zero queries and keys the first token attends to all real ones alike. The layer's norm takes away the mean of
    all coordinates and their scale: the projected mean (d values) is written into directions that have no mean (there
    are width - 1), and its scale does not count, for embeddings are normalised. The residual is lost beside it.

    Raises:
        ModelError: the embedding has as many values as the tower is wide.
    """
    width, size = config.hidden_size, len(head)
    if size >= width:
        raise cannot(
            f"a {config.model_type} of width {width} pooled by its mean with model.embed_dim {size}",
            f"choose an embed_dim below {width} or pooling: cls; {OTHERS}",
        )
    basis = _no_mean(width)[:, :size]
    loud = _LOUD / float(head.norm(dim=1).mean())
    at, nothing, zeros = f"encoder.layer.{config.num_hidden_layers}", torch.zeros(width, width), torch.zeros(width)
    weights[f"{at}.attention.output.dense.weight"] = (basis @ head.double() * loud).float()
    weights[f"{at}.attention.self.value.weight"] = torch.eye(width)
    weights[f"{at}.attention.self.query.weight"] = nothing
    weights[f"{at}.attention.self.key.weight"] = nothing.clone()
    weights[f"{at}.intermediate.dense.weight"] = torch.zeros(config.intermediate_size, width)
    weights[f"{at}.output.dense.weight"] = torch.zeros(width, config.intermediate_size)
    for layer in ("attention.output.LayerNorm", "output.LayerNorm"):
        weights[f"{at}.{layer}.weight"] = torch.ones(width)
    for layer in (
        "attention.output.dense",
        "attention.self.value",
        "attention.self.query",
        "attention.self.key",
        "output.dense",
        "attention.output.LayerNorm",
        "output.LayerNorm",
    ):
        weights[f"{at}.{layer}.bias"] = zeros.clone()
    weights[f"{at}.intermediate.dense.bias"] = torch.zeros(config.intermediate_size)
    config.num_hidden_layers += 1
    return basis.T.float()


def _no_mean(width: int) -> Tensor:
    """Orthonormal columns (width, width - 1) that sum to 0: the cosines of the discrete transform, in float64."""
    rows = torch.arange(width, dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(1, width, dtype=torch.float64)[None, :]
    cosines: Tensor = torch.cos(math.pi / width * rows * columns) * (2 / width) ** 0.5
    return cosines
