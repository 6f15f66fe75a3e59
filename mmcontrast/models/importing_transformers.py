"""CLIPModel, SiglipModel and VisionTextDualEncoderModel of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models.finding import CONFIG, SHARDS, WEIGHTS, read_json, refuse_missing_weights
from mmcontrast.models.importing import Parts, square
from mmcontrast.models.importing_preprocess import read_image_processor
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.models.towers import one_line
from mmcontrast.models.transformers_config import quiet_transformers
from mmcontrast.models.transformers_tokenizer import TransformersTokenizer
from mmcontrast.preprocess import ImagePreprocess

MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel", "vision-text-dual-encoder": "VisionTextDualEncoderModel"}
_LEGACY_EOS = 2  # transformers then pools at the greatest id instead


def read_model(folder: Path, context_length: int | None = None) -> Parts:
    """A folder written by `save_pretrained` of model and processor.

    Args:
        folder: with config.json, model.safetensors (or shards of it), tokenizer and image processor.
        context_length: of captions, if it is to be shorter than the model's own.

    Raises:
        ModelError: another type of model; weights missing, left over or pickled; or a tokenizer or image processor
            that we would run differently.
    """
    config = read_json(folder / CONFIG)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in MODELS:
        raise ModelError(f"{folder}: models of type {model_type!r} are not supported; {', '.join(MODELS)} are")
    if not (folder / WEIGHTS).is_file() and not (folder / SHARDS).is_file():
        raise refuse_missing_weights(folder, WEIGHTS)
    whole = _load(folder, MODELS[model_type])
    tokenizer = _tokenizer(folder, whole.text_model, context_length)
    preprocess = read_image_processor(folder)
    _check_size(whole.vision_model.config, preprocess, folder)
    heads = model_type != "siglip"
    text_type = whole.text_model.config.model_type
    return Parts(
        embed_dim=whole.visual_projection.out_features if heads else _siglip_width(whole),
        image=ImageTowerSpec(
            "transformers",
            image_size=preprocess.image_size,
            kwargs=_kwargs(whole.vision_model, "pooler", whole.visual_projection if heads else None),
            projection="none",
        ),
        text=TextTowerSpec(
            "transformers",
            context_length=tokenizer.context_length,
            kwargs=_kwargs(
                whole.text_model,
                "eos" if text_type == "clip_text_model" else "pooler",
                whole.text_projection if heads else None,
            ),
            projection="none",
        ),
        tokenizer=tokenizer,
        preprocess=preprocess,
        weights=_weights(whole, heads),
    )


def _load(folder: Path, name: str) -> Any:
    try:
        with quiet_transformers():
            model, info = getattr(transformers, name).from_pretrained(
                str(folder),
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
    except Exception as error:  # damaged or missing files, shape errors
        raise ModelError(f"{folder}: transformers cannot load it: {one_line(error)}") from error
    for what, key in (("lacks", "missing_keys"), ("has unknown weights", "unexpected_keys")):
        if names := sorted(info[key]):
            raise ModelError(f"{folder} {what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    return model.eval()


def _kwargs(model: Any, pooling: str, projection: Any) -> dict[str, Any]:
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    own = {} if projection is None else {"own_projection": [projection.in_features, projection.out_features]}
    return {**config, "model_type": model.config.model_type, "pooling": pooling, **own}


def _weights(whole: Any, heads: bool) -> dict[str, Tensor]:
    weights = {f"image_encoder.model.{name}": value for name, value in whole.vision_model.state_dict().items()}
    weights |= {f"text_encoder.model.{name}": value for name, value in whole.text_model.state_dict().items()}
    if heads:
        weights["image_encoder.own_projection.weight"] = whole.visual_projection.weight.data
        weights["text_encoder.own_projection.weight"] = whole.text_projection.weight.data
    scalars = {name: getattr(whole, name, None) for name in ("logit_scale", "logit_bias")}
    return weights | {name: value.data for name, value in scalars.items() if value is not None}


def _siglip_width(whole: Any) -> int:
    if not whole.vision_model.use_head:
        raise ModelError("the config has vision_use_head false, so that there are no image features")
    return int(whole.vision_model.config.hidden_size)


def _tokenizer(folder: Path, text: Any, context_length: int | None) -> TransformersTokenizer:
    """The folder's, with the length that model and tokenizer allow; refused where its end mark is not the model's."""
    tokenizer = TransformersTokenizer(folder, 1 << 20)
    positions = getattr(text.config, "max_position_embeddings", None) or tokenizer.longest
    # RoBERTa's kin count positions from behind the padding id.
    padding = getattr(getattr(text, "embeddings", None), "padding_idx", None)
    positions -= 0 if padding is None else padding + 1
    tokenizer.context_length = min(length for length in (positions, tokenizer.longest, context_length) if length)
    if not tokenizer.marks_its_end():
        raise ModelError(f"{folder}: its tokenizer sets no end mark, or pads on the left, which is not supported")
    if text.config.model_type == "siglip_text_model" and tokenizer.gives_mask:
        raise ModelError(
            f"{folder}: SigLIP reads its padding, but the tokenizer gives an attention mask that hides it; set "
            'model_input_names to ["input_ids"] in tokenizer_config.json'
        )
    if text.config.model_type != "clip_text_model":
        return tokenizer
    expected = tokenizer.vocab_size - 1 if text.config.eos_token_id == _LEGACY_EOS else text.config.eos_token_id
    if tokenizer.eos_id != expected:
        raise ModelError(
            f"{folder}: by text_config.eos_token_id {text.config.eos_token_id} the model reads its features at id "
            f"{expected}, but the tokenizer ends captions with {tokenizer.eos_id}"
        )
    return tokenizer


def _check_size(config: Any, preprocess: ImagePreprocess, folder: Path) -> None:
    expected = getattr(config, "image_size", None)
    if expected is not None and square(expected, folder) != preprocess.image_size:
        raise ModelError(
            f"{folder}: its image processor gives pictures of {preprocess.image_size} pixels, but the model takes "
            f"{expected}"
        )
