"""One model for both sides of a comparison: an open_clip folder, and the same weights as a model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from mmcontrast.models import ClipTokenizer, ImageTowerSpec, ModelSpec, TextTowerSpec, build_dual_encoder

CONTEXT = 77
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
        "text_cfg": {"width": 64, "heads": 1, "layers": 1},
    },
    "small": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 192, "layers": 6},
        "text_cfg": {"width": 192, "heads": 3, "layers": 4},
    },
    "ViT-B-32": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12},
        "text_cfg": {"width": 512, "heads": 8, "layers": 12},
    },
}


def write_models(folder: Path, size: dict[str, Any], seed: int = 0) -> None:
    """`folder`/open_clip, random weights as open_clip writes them, and `folder`/ours, loaded from it."""
    theirs = folder / "open_clip"
    theirs.mkdir(parents=True)
    config = {**size, "text_cfg": {**size["text_cfg"], "context_length": CONTEXT, "vocab_size": 49408}}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, theirs / "open_clip_model.safetensors"
    )
    (theirs / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    tower: dict[str, Any] = {"name": f"local-dir:{theirs.absolute()}", "pretrained": True, "projection": "none"}
    spec = ModelSpec(
        embed_dim=size["embed_dim"],
        image=ImageTowerSpec("open_clip", image_size=size["vision_cfg"]["image_size"], **tower),
        text=TextTowerSpec("open_clip", context_length=CONTEXT, **tower),
    )
    build_dual_encoder(spec, ClipTokenizer(CONTEXT)).save_pretrained(folder / "ours")
