"""Text sides of open_clip checkpoints: their tokenizer, and text towers that are transformers models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from open_clip.hf_configs import arch_dict

from mmcontrast.errors import ModelError
from mmcontrast.models.clip_tokenizer import ClipTokenizer
from mmcontrast.models.spec import TextTowerSpec
from mmcontrast.models.tokenizers import Tokenizer
from mmcontrast.models.towers import one_line
from mmcontrast.models.transformers_tokenizer import TransformersTokenizer

_CONTEXT_LENGTH = 77  # open_clip's, where the config has none
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
_POOLING = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "cls", "cls_pooler": "pooler"}


def read_tokenizer(text_cfg: Mapping[str, Any], folder: Path | None) -> Tokenizer:
    """CLIP's own, or one of transformers: from the folder where it has one, else by its name.

    Raises:
        ModelError: it cannot be loaded, or is used in a way that we do not.
    """
    length = int(text_cfg.get("context_length", _CONTEXT_LENGTH))
    options = {key: value for key, value in (text_cfg.get("tokenizer_kwargs") or {}).items() if value}
    name = text_cfg.get("hf_tokenizer_name")
    cleaning = options.pop("clean", "whitespace" if name else "lower")
    blank_end = bool(name and options.pop("strip_sep_token", False))
    if text_cfg.get("tokenizer_mode"):
        options["tokenizer_mode"] = text_cfg["tokenizer_mode"]
    if options:
        raise ModelError(f"text_cfg: tokenizers with {', '.join(sorted(options))} are not supported")
    if not name:
        if cleaning != "lower":
            raise ModelError(f"text_cfg.tokenizer_kwargs.clean {cleaning!r} is not supported with CLIP's own tokenizer")
        return ClipTokenizer(length)
    in_folder = folder is not None and any((folder / file).is_file() for file in _TOKENIZER_FILES)
    tokenizer = TransformersTokenizer(folder if in_folder and folder else name, length, cleaning, blank_end)
    if not tokenizer.marks_its_end():
        raise ModelError(f"tokenizer {name!r} sets no end mark, or pads on the left, which is not supported")
    return tokenizer


def read_hf_tower(model: Mapping[str, Any], tokenizer: Tokenizer) -> TextTowerSpec:
    """The text tower of `text_cfg.hf_model_name`, whose config must be at hand.

    Raises:
        ModelError: its config cannot be had, or a type, pooling or projection that we do not know.
    """
    text_cfg, embed_dim = model["text_cfg"], int(model["embed_dim"])
    name = text_cfg["hf_model_name"]
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # network, missing file, unknown type
        raise ModelError(f"text_cfg.hf_model_name {name!r}: its config cannot be had: {one_line(error)}") from error
    known = arch_dict.get(config.model_type)
    if known is None or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"text_cfg.hf_model_name {name!r}: text towers of type {config.model_type} are not supported")
    pooler = text_cfg.get("hf_pooler_type", "mean_pooler") or known["pooler"]
    if pooler not in _POOLING:
        raise ModelError(f"text_cfg.hf_pooler_type {pooler!r} is not supported; {', '.join(_POOLING)} are")
    if config.pad_token_id != tokenizer.pad_id:
        raise ModelError(f"{name} pads with id {config.pad_token_id}, but its tokenizer with {tokenizer.pad_id}")
    widths = _widths(text_cfg.get("hf_proj_type", "mlp"), getattr(config, known["config_names"]["width"]), embed_dim)
    fields = {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}
    own = {"own_projection": widths} if widths else {}
    return TextTowerSpec(
        "transformers",
        name,  # where an export to open_clip points again; the config is in kwargs
        context_length=tokenizer.context_length,
        kwargs={**fields, "model_type": config.model_type, "pooling": _POOLING[pooler], **own},
        projection="none",
    )


def _widths(kind: str | None, width: int, embed_dim: int) -> list[int] | None:
    """Of the projection behind the tower; None for none."""
    if kind is None and width == embed_dim:
        return None
    if kind == "linear":
        return [width, embed_dim]
    if kind == "mlp":
        return [width, (width + embed_dim) // 2, embed_dim]
    raise ModelError(f"text_cfg.hf_proj_type {kind!r} with a width of {width} for {embed_dim} is not supported")
