"""Small models of open_clip, transformers and sentence-transformers, saved in those libraries' own formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import transformers
from model_fakes import SIZE, TINY_BERT, TINY_VIT
from PIL import Image
from safetensors.torch import save_file
from tokenizer_fakes import WORDS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

CAPTIONS = ["a red dog on the grass", "two  green cars!", "a small blue car is on the table &amp; the road"] * 2
CONTEXT = 12
VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": SIZE}
TEXT = {"layers": 2, "width": 16, "heads": 2, "context_length": CONTEXT}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "shortest", "interpolation": "bicubic"}


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    sizes = [(40, 48), (43, 33), (32, 32), (61, 37)]
    return [Image.fromarray(draw.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


def stir(model: nn.Module, seed: int = 0) -> None:
    """Weights far from their start, so that no two layers, scales or biases are alike."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
        for name, value in (("logit_scale", 3.3), ("logit_bias", -7.5)):
            if getattr(model, name, None) is not None:
                getattr(model, name).fill_(value)


def open_clip_folder(
    folder: Path,
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    custom_text: bool = True,
    **model: Any,
) -> Path:
    """open_clip_config.json and open_clip_model.safetensors, as open_clip's own save writes them."""
    config = {
        "embed_dim": 12,
        "vision_cfg": {**VISION, **(vision or {})},
        "text_cfg": {**TEXT, **(text or {})},
        **({"custom_text": True} if custom_text else {}),
        **model,
    }
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model_cfg": config, "preprocess_cfg": {**PREPROCESS, **(preprocess or {})}}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    built = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    stir(built)
    save_file(built.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def clip_words(folder: Path, mask: bool = True, **special: str) -> PreTrainedTokenizerFast:
    """Begin and end marks, lower case, padding: a small vocabulary of words whose greatest id is the end mark."""
    sep = "</s>"
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    tokens = ["<pad>", "<unk>", "<s>", *dict.fromkeys([*WORDS, *letters, *("##" + letter for letter in letters)]), sep]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), ("<s>", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=sep,
        **special,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"] if mask else ["input_ids"],
    )
    fast.save_pretrained(folder)
    return fast


def marks(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Fields of a text config that fit a tokenizer."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def clip_processor(folder: Path, **values: Any) -> None:
    given = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}, **values}
    transformers.CLIPImageProcessor(**given).save_pretrained(folder)


def hf_clip_folder(folder: Path, **saving: Any) -> Path:
    words = clip_words(folder)
    text = {**TINY_BERT, **marks(words), "max_position_embeddings": CONTEXT, "hidden_act": "quick_gelu"}
    vision = {**TINY_VIT, "image_size": SIZE, "hidden_act": "gelu"}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    stir(model)
    model.save_pretrained(folder, **saving)
    clip_processor(folder)
    return folder


def hf_siglip_folder(folder: Path, mask: bool = False) -> Path:
    words = clip_words(folder, mask)
    text = {**TINY_BERT, **marks(words), "max_position_embeddings": CONTEXT, "projection_size": 16}
    model = transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config={**TINY_VIT, "image_size": SIZE})
    )
    stir(model)
    with torch.no_grad():
        model.logit_scale.fill_(4.77)  # over CLIP's cap of 100, as SigLIP's are
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, resample=2).save_pretrained(folder)
    return folder


def hf_dual_folder(folder: Path, vision: Any = None, text: Any = None) -> Path:
    words = clip_words(folder)
    vision = vision or transformers.ViTConfig(**TINY_VIT, image_size=SIZE)
    text = text or transformers.BertConfig(**TINY_BERT, **marks(words), max_position_embeddings=CONTEXT)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=12)
    model = transformers.VisionTextDualEncoderModel(config)
    stir(model)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(
        folder
    )
    return folder
