"""What we write for other libraries, we read again from their own files, with the same numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "models"))
from foreign_fakes import pictures, stir
from model_fakes import CAPTIONS, CORPUS, IMAGE_TOWERS, TEXT_TOWERS, TINY_BERT, tiny_model

from mmcontrast.export import to_open_clip, to_transformers
from mmcontrast.models import DualEncoder, SentencePieceTokenizer, train_sentencepiece

SIGLIP: dict[str, Any] = {"kwargs": {**TEXT_TOWERS["hf_siglip"]["kwargs"]}, "context_length": 64}
SIGLIP_VISION: dict[str, Any] = {"library": "transformers", "kwargs": {**IMAGE_TOWERS["hf_siglip"]["kwargs"]}}
PAIRS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "CLIP": ("open_clip_vit", "open_clip_causal", {}),
    "SigLIP": (
        {**SIGLIP_VISION, "projection": "none"},
        {"library": "transformers", **SIGLIP, "projection": "none"},
        {"embed_dim": TINY_BERT["hidden_size"], "logit_bias": -9.0},
    ),
    "timm and a bag of words": ("timm_resnet", {"library": "bag_of_words", "kwargs": {"width": 16}}, {}),
    "ViT and BERT": ("hf_vit", "hf_bert_pooler", {}),
}


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train_sentencepiece(CORPUS, 420)


@pytest.mark.parametrize("pair", PAIRS)
def test_through_transformers(pair: str, vocabulary: bytes, tmp_path: Path) -> None:
    image, text, values = PAIRS[pair]
    length = text.get("context_length", 24) if isinstance(text, dict) else 24
    model = tiny_model(SentencePieceTokenizer(vocabulary, length), image, text, **values).eval()
    stir(model)
    (tmp_path / "export").mkdir()
    to_transformers.write(model, tmp_path / "export")
    again = DualEncoder.from_pretrained(tmp_path / "export")
    torch.testing.assert_close(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS), atol=1e-5, rtol=0)
    alike = [picture for picture in [*pictures(), Image.new("RGB", (33, 50))] if picture.size != (61, 37)]
    torch.testing.assert_close(again.encode_image(alike), model.encode_image(alike), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.logit_scale, model.logit_scale)
    assert again.preprocess.crop_rounding == ("down" if model.preprocess.resize == "shortest" else "even")


OPEN_CLIP: dict[str, tuple[Any, Any]] = {
    "native": ("open_clip_vit", "open_clip_causal"),
    "timm and a bag of words": ({"library": "timm", "name": "test_resnet"}, PAIRS["timm and a bag of words"][1]),
    "a reader of padding": ("open_clip_vit", "open_clip_last"),
}


@pytest.mark.parametrize("pair", OPEN_CLIP)
def test_through_open_clip(pair: str, vocabulary: bytes, tmp_path: Path) -> None:
    image, text = OPEN_CLIP[pair]
    model = tiny_model(SentencePieceTokenizer(vocabulary, 24), image, text).eval()
    stir(model)
    (tmp_path / "export").mkdir()
    to_open_clip.write(model, tmp_path / "export")
    again = DualEncoder.from_pretrained(tmp_path / "export")
    torch.testing.assert_close(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.encode_image(pictures()), model.encode_image(pictures()), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.logit_scale, model.logit_scale)
    assert again.preprocess == model.preprocess
