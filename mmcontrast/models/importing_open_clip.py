"""Checkpoints of open_clip: folders and repositories with open_clip_config.json, and its own names with a tag."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import hf_hub_download
from open_clip.model import CLIPTextCfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models.finding import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS, read_json, refuse_missing_weights
from mmcontrast.models.importing import Parts, square
from mmcontrast.models.importing_open_clip_text import read_hf_tower, read_tokenizer
from mmcontrast.models.importing_preprocess import read_open_clip
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.tokenizers import Tokenizer
from mmcontrast.models.towers import one_line

_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "multimodal_cfg"}
# They say how a model is built and trained, not what its weights give.
_INITIAL = {"init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "output_dict", "cast_dtype", "pad_id"}
_TEXT = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
_TOKENIZER_FIELDS = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")


@dataclass(frozen=True)
class Checkpoint:
    """What open_clip keeps of a model.

    Attributes:
        model, preprocess: `model_cfg` and `preprocess_cfg`.
        weights: a safetensors file.
        folder: where its tokenizer may lie; None for a name with a tag.
    """

    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    weights: Path
    folder: Path | None


def read_folder(folder: Path) -> Parts:
    """A folder with open_clip_config.json and open_clip_model.safetensors.

    Raises:
        ModelError: a file is missing, damaged or a pickle, or asks for what we would do differently.
    """
    values = read_json(folder / OPEN_CLIP_CONFIG)
    if not isinstance(values, dict) or not isinstance(values.get("model_cfg"), dict):
        raise ModelError(f"{folder / OPEN_CLIP_CONFIG} has no model_cfg")
    # model.safetensors may be another library's, whose config then lies beside it
    own = (*OPEN_CLIP_WEIGHTS, *(() if (folder / "config.json").is_file() else (WEIGHTS,)))
    weights = next((folder / name for name in own if (folder / name).is_file()), None)
    if weights is None:
        raise refuse_missing_weights(folder, OPEN_CLIP_WEIGHTS[0])
    return read_checkpoint(Checkpoint(values["model_cfg"], values.get("preprocess_cfg") or {}, weights, folder))


def read_tag(name: str) -> Parts:
    """A name of open_clip's own list: "open_clip:ViT-B-32/laion2b_s34b_b79k".

    Raises:
        ModelError: no such architecture or tag, QuickGELU in one of them only, or weights that are pickles.
    """
    architecture, _, tag = name.removeprefix("open_clip:").rpartition("/")
    architecture = architecture.replace("/", "-")  # as open_clip does: ViT-B/32
    model = open_clip.get_model_config(architecture)
    if model is None:
        near = get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ModelError(f"{name}: open_clip has no config {architecture!r}{hint}; write open_clip:ARCHITECTURE/TAG")
    pretrained = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ModelError(f"{name}: {architecture} has no tag {tag!r}, but {', '.join(tags) or 'none'}")
    _check_activation(name, architecture, model, pretrained)
    preprocess = {key: pretrained[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in pretrained}
    return read_checkpoint(Checkpoint(model, preprocess, _tag_weights(name, pretrained), None))


def _check_activation(name: str, architecture: str, model: Mapping[str, Any], pretrained: Mapping[str, Any]) -> None:
    trained, built = bool(pretrained.get("quick_gelu")), bool(model.get("quick_gelu"))
    if trained == built:
        return
    other = f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
    if other != architecture and other in open_clip.list_models():
        mend = f"; take {other}"
    else:  # the repository has a config of its own
        mend = f"; take hf-hub:{os.path.split(pretrained['hf_hub'])[0]}" if pretrained.get("hf_hub") else ""
    raise ModelError(
        f"{name}: the weights were trained with quick_gelu {trained}, but {architecture} has quick_gelu {built}{mend}"
    )


def _tag_weights(name: str, pretrained: Mapping[str, Any]) -> Path:
    repository, file = os.path.split(pretrained.get("hf_hub") or "")
    file = file or OPEN_CLIP_WEIGHTS[0]
    stem, suffix = os.path.splitext(file)
    safe = file if suffix == ".safetensors" else f"{stem}.safetensors"
    if not repository:
        raise ModelError(
            f"{name}: its weights are a pickle ({pretrained.get('url')}), which could run code: not loaded"
        )
    try:
        return Path(hf_hub_download(repository, safe))
    except Exception as error:  # network, no such file
        also = f"; {file} is a pickle, which could run code: it is not loaded" if safe != file else ""
        raise ModelError(f"{name}: {safe} of {repository} cannot be had: {one_line(error)}{also}") from error


def read_checkpoint(checkpoint: Checkpoint) -> Parts:
    """Both towers with the checkpoint's own projections.

    Raises:
        ModelError: a field that is unknown or that we would treat differently; weights that cannot be read.
    """
    model = checkpoint.model
    if unknown := sorted(set(model) - _KEYS - _INITIAL):
        raise ModelError(f"model_cfg has the unknown field {', '.join(unknown)}")
    if missing := [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]:
        raise ModelError(f"model_cfg lacks {', '.join(missing)}")
    text_cfg = dict(model["text_cfg"])
    tokenizer = read_tokenizer(text_cfg, checkpoint.folder)
    image = _image_tower(model)
    hugging_face = bool(text_cfg.get("hf_model_name"))
    text = read_hf_tower(model, tokenizer) if hugging_face else _text_tower(model, tokenizer)
    weights = _weights(checkpoint.weights, hugging_face, decoder="multimodal_cfg" in model)
    if model.get("init_logit_bias") is not None and "logit_bias" not in weights:
        weights["logit_bias"] = torch.zeros(1)  # as open_clip does
    return Parts(
        embed_dim=int(model["embed_dim"]),
        image=image,
        text=text,
        tokenizer=tokenizer,
        preprocess=read_open_clip(checkpoint.preprocess, image.image_size),
        weights=weights,
    )


def _image_tower(model: Mapping[str, Any]) -> ImageTowerSpec:
    config = dict(model["vision_cfg"])
    size = square(config.pop("image_size", 224), "vision_cfg.image_size")
    config.pop("patch_dropout", None)  # of its training
    if config.get("timm_model_name"):
        config["timm_model_pretrained"] = False
    return ImageTowerSpec("open_clip", image_size=size, kwargs={**config, **_beside(model)}, projection="none")


def _text_tower(model: Mapping[str, Any], tokenizer: Tokenizer) -> TextTowerSpec:
    given = dict(model["text_cfg"])
    usual = asdict(CLIPTextCfg())
    # Those that a tower from scratch would otherwise take from the tokenizer.
    fixed = {key: usual[key] for key in ("vocab_size", "context_length", "pad_id", "eos_id", "pool_type")}
    config = {**fixed, **{key: value for key, value in given.items() if key not in _TOKENIZER_FIELDS}}
    _check_marks(config, tokenizer)
    reads_padding = bool(config.get("no_causal_mask") or config.get("embed_cls") or config["pool_type"] == "last")
    return TextTowerSpec(
        "open_clip",
        context_length=int(config["context_length"]),
        kwargs={**config, **_beside(model), "attend_padding": reads_padding},
        projection="none",
    )


def _check_marks(config: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """open_clip finds the end of a caption by its id: it must be the one that the tokenizer sets."""
    pooling = config["pool_type"]
    end = {"argmax": tokenizer.vocab_size - 1, "eos": config["eos_id"]}.get(pooling)
    if end is not None and end != tokenizer.eos_id:
        raise ModelError(
            f"text_cfg.pool_type {pooling} reads captions at id {end}, but the tokenizer ends them with "
            f"{tokenizer.eos_id}"
        )
    if config.get("embed_cls") and config["pad_id"] != tokenizer.pad_id:
        raise ModelError(f"text_cfg.pad_id is {config['pad_id']}, but the tokenizer pads with {tokenizer.pad_id}")


def _beside(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"quick_gelu": bool(model.get("quick_gelu")), "embed_dim": int(model["embed_dim"])}


def _weights(path: Path, hugging_face: bool, decoder: bool) -> dict[str, Tensor]:
    """By our names, whether the text tower lies at the root (CLIP) or under "text." (CustomTextCLIP)."""
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {one_line(error)}") from None
    weights: dict[str, Tensor] = {}
    for name, value in stored.items():
        name = name.removeprefix("module.")
        if name.endswith("embeddings.position_ids") or (decoder and name.startswith("text_decoder.")):
            continue  # numbers in order; CoCa's writer of captions, which features do not pass
        if name.startswith(_TEXT) and not hugging_face:
            name = f"text.{name}"
        weights[_ours(name, hugging_face)] = value
    return weights


def _ours(name: str, hugging_face: bool) -> str:
    if name.startswith("visual."):
        return f"image_encoder.{name}"
    if not hugging_face and name.startswith("text."):
        return f"text_encoder.{name}"
    if name.startswith("text.transformer."):
        return f"text_encoder.model.{name.removeprefix('text.transformer.')}"
    if name.startswith("text.proj."):
        return f"text_encoder.own_projection.{name.removeprefix('text.proj.')}"
    return name
