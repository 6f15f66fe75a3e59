"""A model as open_clip loads it: `create_model_and_transforms("local-dir:FOLDER")` and `get_tokenizer` of the same."""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from open_clip.model import CustomTextCLIP
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from mmcontrast.errors import ModelError
from mmcontrast.export.checking import TOLERANCE
from mmcontrast.export.open_clip_folder import THIS_FOLDER, WEIGHTS, write_config
from mmcontrast.export.open_clip_image import image_parts
from mmcontrast.export.open_clip_parts import Part, cannot, plain
from mmcontrast.export.open_clip_text import text_part
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.models import DualEncoder, Tokenizer, TransformersTokenizer
from mmcontrast.models.towers import one_line
from mmcontrast.models.weights_file import write_weights

_CAPTIONS = ["a dog", "two people and a small red boat on the shore of a lake", "the end of the road " * 30]
# open_clip builds both towers at once; beside the one that is looked at the other one is as small as can be.
_SMALLEST: dict[str, dict[str, Any]] = {
    "vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8},
    "text_cfg": {"layers": 1, "width": 8, "heads": 1, "vocab_size": 8, "context_length": 4},
}


def write(model: DualEncoder, folder: Path) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors and, unless the tokenizer is CLIP's own, its files.

    What open_clip builds is compared with each tower before anything is written. The folder can be moved.

    Raises:
        ModelError: open_clip cannot express a tower, or not both in one model.
    """
    if model.device.type != "cpu":  # other devices round otherwise
        model = copy.deepcopy(model).cpu()
    preprocess = _preprocess_config(model)
    text, image = _checked_text(model), _checked_image(model)
    config = _model_config(model, image, text)
    if model.tokenizer.kind != "clip":  # CLIP's vocabulary comes with open_clip
        config["text_cfg"] |= {"hf_tokenizer_name": THIS_FOLDER, **_write_tokenizer(model.tokenizer, folder)}
    write_weights(_weights(model, image, text), folder / WEIGHTS)
    write_config(folder, {"model_cfg": config, "preprocess_cfg": preprocess})


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Write its files, and return how open_clip is to use them.

    It cleans every caption ("whitespace", if nothing is said), which we only do where a checkpoint of it asks for that.
    """
    length = tokenizer.context_length
    options: dict[str, Any] = {}
    if isinstance(tokenizer, TransformersTokenizer) and tokenizer.cleaning is not None:
        options = {"tokenizer_kwargs": {"clean": tokenizer.cleaning}}
        if tokenizer.blank_end:
            options["tokenizer_kwargs"]["strip_sep_token"] = True
        with tempfile.TemporaryDirectory() as temporary:
            tokenizer.save(Path(temporary))
            write_tokenizer(TransformersTokenizer(temporary, length), folder, length)
    else:
        write_tokenizer(tokenizer, folder, length)
    return options


def _model_config(model: DualEncoder, image: Part, text: Part) -> dict[str, Any]:
    activations = {part.quick_gelu for part in (image, text)} - {None}
    if len(activations) > 1:
        raise cannot("one tower with QuickGELU and one without: it has one switch for both")
    config: dict[str, Any] = {
        "embed_dim": model.embed_dim,
        "vision_cfg": image.config,
        "text_cfg": text.config,
        "quick_gelu": True in activations,
        "custom_text": True,  # the towers side by side, as ours
        "init_logit_scale": _log_scale(model),
    }
    if model.logit_bias is not None:
        config["init_logit_bias"] = float(model.logit_bias.detach())
    return config


def _log_scale(model: DualEncoder) -> float:
    return min(max(float(model.logit_scale.detach()), 0.0), math.log(model.spec.logit_scale_max))


def _weights(model: DualEncoder, image: Part, text: Part) -> dict[str, Tensor]:
    weights = {f"visual.{name}": value for name, value in image.weights.items()}
    weights |= {f"text.{name}": value for name, value in text.weights.items()}
    weights["logit_scale"] = torch.tensor(_log_scale(model))
    if model.logit_bias is not None:
        weights["logit_bias"] = model.logit_bias.detach().squeeze()
    return plain(weights)


def _preprocess_config(model: DualEncoder) -> dict[str, Any]:
    ours = model.preprocess
    if ours.resize == "shortest" and ours.to_dict().get("crop_rounding", "even") != "even":
        raise cannot(
            "crops that start where transformers' do, a pixel before its own where an odd number is left over "
            '(dataclasses.replace(model.preprocess, crop_rounding="even") moves them)'
        )
    return {
        "size": [ours.image_size, ours.image_size],
        "mode": "RGB",
        "mean": list(ours.mean),
        "std": list(ours.std),
        "interpolation": ours.interpolation,
        "resize_mode": ours.resize,
        "fill_color": 0,
    }


def _checked_image(model: DualEncoder) -> Part:
    """The first way to have the image tower in open_clip that gives its features."""
    noise = np.random.default_rng(0).integers(0, 256, (3, model.preprocess.image_size, model.preprocess.image_size, 3))
    pictures = [Image.fromarray(values.astype(np.uint8)) for values in noise]
    pixels, ours = model.preprocess.normalise(model.preprocess.batch(pictures)), model.encode_image(pictures)
    reasons: list[str] = []
    try:
        for part in image_parts(model):
            if (reason := _misfit(part, "vision_cfg", model.embed_dim, pixels, ours)) is None:
                return part
            reasons.append(reason)
    except ModelError:
        if not reasons:
            raise
    shortly = reasons[0].partition(":")[0]  # torch goes on with all names of weights
    raise cannot(f"{_image_name(model)} ({shortly})")


def _image_name(model: DualEncoder) -> str:
    spec = model.spec.image
    name = spec.name or spec.kwargs.get("timm_model_name")
    if name is None:
        return "this image tower"
    given = f" with {', '.join(sorted(spec.kwargs))}" if spec.kwargs and spec.library == "timm" else ""
    return f"{name} of timm{given} at {spec.image_size} pixels: it hands timm nothing but the name"


def _checked_text(model: DualEncoder) -> Part:
    part, tokens = text_part(model), model.tokenizer(_CAPTIONS)
    missing = model.tokenizer.context_length - tokens.input_ids.shape[1]
    ids = pad(tokens.input_ids, (0, missing), value=model.tokenizer.pad_id)
    reason = _misfit(part, "text_cfg", model.embed_dim, ids, model.encode_text(_CAPTIONS))
    if reason is not None:
        raise cannot(f"this text tower ({reason})")
    return part


def _misfit(
    part: Part, which: Literal["vision_cfg", "text_cfg"], embed_dim: int, inputs: Tensor, ours: Tensor
) -> str | None:
    """Why what open_clip builds is not the tower; None if it is."""
    config = dict(part.config)
    if "hf_model_name" in config:
        config["hf_model_pretrained"] = False
    try:
        clip = CustomTextCLIP(embed_dim, **{**_SMALLEST, which: config}, quick_gelu=bool(part.quick_gelu)).eval()
        tower: nn.Module = clip.visual if which == "vision_cfg" else clip.text
        tower.load_state_dict(plain(part.weights))
        with torch.no_grad():
            theirs = normalize(tower(inputs), dim=-1)
    except ModelError:
        raise
    except Exception as error:  # asserts, shape errors, failed downloads: open_clip raises of all kinds
        return one_line(error)
    difference = float((theirs - ours).abs().max())
    return None if difference <= TOLERANCE else f"what it builds differs by {difference:.1e}"
