"""A dual encoder as one of transformers: CLIP or SigLIP where both towers are, else VisionTextDualEncoderModel."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from mmcontrast.export.processor_files import write_processor
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.export.transformers_parts import Part, cannot, prefixed
from mmcontrast.export.transformers_text import text_part
from mmcontrast.export.transformers_vision import vision_part
from mmcontrast.models import DualEncoder
from mmcontrast.models.transformers_config import quiet_transformers
from mmcontrast.models.weights_file import give_usual_mode, write_weights

_WEIGHTS = "model.safetensors"


def write(model: DualEncoder, folder: Path) -> None:
    """Write config.json, model.safetensors, and the files of tokenizer and image processor.

    `AutoModel` and `pipeline("zero-shot-image-classification")` load the folder. Where the image tower is timm's, the
    reader needs timm, too. A `logit_bias` is left out where transformers has none: it changes no softmax.

    Raises:
        ModelError: transformers has no class for these towers or heads.
    """
    if model.device.type != "cpu":
        model = copy.deepcopy(model).to("cpu")
    text = text_part(model)
    siglip = text.config.model_type == "siglip_text_model"
    vision = vision_part(model, siglip)
    written = write_tokenizer(model.tokenizer, folder)  # first of all: it can fail
    if siglip:
        if written.pad_id != model.tokenizer.pad_id:
            raise cannot("a SigLIP text tower that reads the padding of CLIP's vocabulary")
        _without_mask(folder / "tokenizer_config.json")
    write_processor(model.preprocess, folder)
    with quiet_transformers():
        theirs = _assemble(vision, text, model)
        theirs.save_pretrained(folder, max_shard_size="1TB")
        give_usual_mode(folder / _WEIGHTS)
    _name_as_before(folder / _WEIGHTS, theirs)


def _assemble(vision: Part, text: Part, model: DualEncoder) -> Any:
    """The whole model with its weights, on the CPU."""
    scale = model.logit_scale.detach().float().cpu().squeeze()
    kinds = vision.config.model_type, text.config.model_type
    configs = {
        "vision_config": vision.config.to_dict(),
        "text_config": text.config.to_dict(),
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": float(scale),
    }
    if kinds == ("clip_vision_model", "clip_text_model"):
        theirs: Any = CLIPModel(CLIPConfig(**configs))
    elif kinds[1] == "siglip_text_model":
        theirs = SiglipModel(SiglipConfig(vision_config=configs["vision_config"], text_config=configs["text_config"]))
    else:
        theirs = VisionTextDualEncoderModel(VisionTextDualEncoderConfig(**configs))
    weights = {
        **prefixed("vision_model.", vision.weights),
        **prefixed("text_model.", text.weights),
    }
    if isinstance(theirs, SiglipModel):
        bias = torch.zeros(1) if model.logit_bias is None else model.logit_bias.detach()
        weights |= {"logit_scale": scale[None], "logit_bias": bias}
    else:
        weights |= {
            "visual_projection.weight": _matrix(vision, model.embed_dim),
            "text_projection.weight": _matrix(text, model.embed_dim),
            "logit_scale": scale,
        }
    theirs.load_state_dict(weights)
    return theirs.eval()


def _matrix(part: Part, embed_dim: int) -> Tensor:
    return torch.eye(embed_dim) if part.head is None else part.head


def _without_mask(path: Path) -> None:
    """SigLIP reads its padding: its tokenizer gives no mask."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["model_input_names"] = ["input_ids"]
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _name_as_before(path: Path, theirs: Any) -> None:
    """Weights of CLIP's towers in a dual encoder by the names of transformers 4, which 5 reads as well."""
    if not isinstance(theirs, VisionTextDualEncoderModel):
        return
    config, renamed = theirs.config, {}
    nested = {
        f"{part}_model."
        for part, kind in (("vision", config.vision_config.model_type), ("text", config.text_config.model_type))
        if kind in ("clip_vision_model", "clip_text_model", "siglip_vision_model")
    }
    if not nested:
        return
    for name, value in load_file(path).items():
        start = name.partition(".")[0] + "."
        twice = start in nested and not name.startswith(2 * start)
        renamed[start + name if twice else name] = value
    write_weights(renamed, path)
