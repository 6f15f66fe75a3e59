"""Text towers of all libraries as open_clip's text_cfg and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_clip.hf_configs import arch_dict
from torch import Tensor, nn

from mmcontrast.export.open_clip_bag_of_words import bag_of_words
from mmcontrast.export.open_clip_native import HF_CLIP, Activation, blocks, norm, options, text_projection
from mmcontrast.export.open_clip_parts import Head, Part, cannot, linear_head
from mmcontrast.models import DualEncoder
from mmcontrast.models.towers_bag_of_words import BagOfWordsTower
from mmcontrast.models.towers_open_clip import OpenClipTextTower
from mmcontrast.models.towers_transformers import TransformersTextTower

_NOT_THEIRS = {"quick_gelu", "embed_dim", "attend_padding", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"}
_NATIVE = ("clip_text_model", "siglip_text_model")
_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}


def text_part(model: DualEncoder) -> Part:
    """The text tower as open_clip has it, its context length that of the tokenizer.

    Raises:
        ModelError: open_clip has no such tower.
    """
    tower: Any = model.text_encoder
    if isinstance(tower, TransformersTextTower) and _kind(tower) not in _NATIVE:
        return _by_name(model, tower)
    own = tower.own_projection if isinstance(tower, TransformersTextTower) else None
    head = linear_head([own, model.text_projection], "this text tower")
    if isinstance(tower, BagOfWordsTower):
        part = bag_of_words(tower, head, model.tokenizer.eos_id)
        part.weights["positional_embedding"] = part.weights["positional_embedding"][: model.tokenizer.context_length]
    elif isinstance(tower, TransformersTextTower):
        part = _clip(model, tower, head) if _kind(tower) == _NATIVE[0] else _siglip(model, tower, head)
    else:
        part = _open_clip(model, tower, head)
    part.config.update(vocab_size=tower.vocab_size, context_length=model.tokenizer.context_length)
    if part.config.get("pool_type", "argmax") in ("argmax", "eos"):
        part.config.update(_end_mark(model))
    part.config["pad_id"] = model.tokenizer.pad_id
    return part


def _kind(tower: TransformersTextTower) -> str:
    net: Any = tower.model
    return str(net.config.model_type)


def _end_mark(model: DualEncoder) -> dict[str, Any]:
    """Where a caption ends; the greatest id, as open_clip has it by default, ends CLIP's captions only."""
    if model.tokenizer.kind == "clip":
        return {"pool_type": "argmax"}
    return {"pool_type": "eos", "eos_id": model.tokenizer.eos_id}


def _open_clip(model: DualEncoder, tower: OpenClipTextTower, head: Head) -> Part:
    kwargs, text, length = model.spec.text.kwargs, tower.text, model.tokenizer.context_length
    config = {key: value for key, value in kwargs.items() if key not in _NOT_THEIRS} | {"output_tokens": False}
    if tower.pooling == "mean":
        raise cannot("a text transformer with the mean of its tokens for a pooling")
    if text.attn_mask is None and text.cls_emb is None and not tower.attend_padding:
        raise cannot("a text transformer without a causal mask that does not read its padding")
    if tower.attend_padding:
        _same_length(tower.positions, length)
    weights: dict[str, Any] = text.state_dict()
    if not tower.attend_padding:
        weights["positional_embedding"] = weights["positional_embedding"][:length]
    if model.spec.text.projection != "none":
        layers, projection = text_projection(head)
        weights, config = weights | layers, config | projection
    return Part(config, weights, bool(kwargs.get("quick_gelu")))


def _same_length(positions: int, length: int) -> None:
    if positions != length:
        raise cannot(
            f"a text tower that reads its padding up to {positions} tokens behind a tokenizer that cuts at {length}: "
            f"it cuts and pads at one length (model.text.context_length: {positions})"
        )


def _clip(model: DualEncoder, tower: TransformersTextTower, head: Head) -> Part:
    if tower.pooling != "eos":
        raise cannot(f"CLIP's text transformer with pooling {tower.pooling}")
    part = _transformer(tower.model, model.tokenizer.context_length)
    layers, projection = text_projection(head)
    return Part(part.config | projection, part.weights | layers, part.quick_gelu)


def _siglip(model: DualEncoder, tower: TransformersTextTower, head: Head) -> Part:
    net: Any = tower.model
    _same_length(net.config.max_position_embeddings, model.tokenizer.context_length)
    part = _transformer(net, model.tokenizer.context_length)
    layers, projection = text_projection(
        linear_head([net.head, tower.own_projection, model.text_projection], "this text tower")
    )
    config = part.config | projection | {"no_causal_mask": True, "pool_type": "last"}
    return Part(config, part.weights | layers, part.quick_gelu)


def _transformer(net: Any, length: int) -> Part:
    """CLIP's or SigLIP's text transformer without its projection."""
    config, state = net.config, net.state_dict()
    where = f"the {config.model_type} of transformers"
    weights, sizes = blocks(state, HF_CLIP, where)
    weights |= {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"][:length],
        **norm(state, "final_layer_norm", "ln_final"),
    }
    activation = Activation.of(config.hidden_act, where)
    options_ = options(config.layer_norm_eps, activation)
    return Part(sizes | {"heads": config.num_attention_heads} | options_, weights, activation.quick_gelu)


def _by_name(model: DualEncoder, tower: TransformersTextTower) -> Part:
    """A model of which open_clip reads the config, without weights, by its name on the Hub."""
    kind = _kind(tower)
    where = f"the text tower {kind} of transformers"
    if kind not in arch_dict:
        raise cannot(f"{where}: it knows CLIP's and SigLIP's, {', '.join(arch_dict)}")
    if tower.pooling not in _POOLERS:
        raise cannot(f"{where} with pooling {tower.pooling}")
    projection, layers = _hf_projection(model, tower, where)
    name = _hub_name(model)
    if name is None:
        raise cannot(f"{where}: it reads its config by a name on the Hub, and this one was built without")
    pooler = tower.pooling == "pooler"
    state = {key: value for key, value in tower.model.state_dict().items() if pooler or not key.startswith("pooler.")}
    config = {
        "hf_model_name": name,
        "hf_pooler_type": _POOLERS[tower.pooling],
        "hf_proj_type": projection,
        "context_length": model.tokenizer.context_length,
    }
    return Part(config, {f"transformer.{key}": value for key, value in state.items()} | layers, None)


def _hf_projection(
    model: DualEncoder, tower: TransformersTextTower, where: str
) -> tuple[str | None, dict[str, Tensor]]:
    """hf_proj_type and the weights of open_clip's head on a transformers model."""
    own = tower.own_projection
    if isinstance(own, nn.Sequential) and model.spec.text.projection == "none":  # as a checkpoint of open_clip has it
        return "mlp", {f"proj.{key}": value for key, value in own.state_dict().items()}
    head = linear_head([own, model.text_projection], "this text tower")
    if head.bias is not None:
        raise cannot(f"{where} with a bias on its embedding")
    return (None, {}) if head.weight is None else ("linear", {"proj.weight": head.weight})


def _hub_name(model: DualEncoder) -> str | None:
    """Of the model that the text tower was made from, if it came from the Hub."""
    origin = (model.extra.get("built_from") or {}).get("text") or {}
    pretrained = origin.get("pretrained")
    name = origin.get("config_of") or (pretrained if isinstance(pretrained, str) else origin.get("name"))
    return None if not name or Path(name).expanduser().exists() or name.count("/") > 1 else str(name)
