from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fakes import CAPTIONS, CONTEXT, CORPUS, tiny_model
from PIL import Image

from mmcontrast.errors import ModelError
from mmcontrast.export.checking import TOLERANCE, Examples
from mmcontrast.export.formats import export_model
from mmcontrast.models import SentencePieceTokenizer, train_sentencepiece

EXAMPLES = Examples(
    [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40 + i, 40, 3), np.uint8)) for i in range(4)],
    [*CAPTIONS, "a small red dog " * 20],
    classes=4,
)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece(CORPUS, 420), CONTEXT)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("open_clip_vit", "open_clip_causal"),  # CLIPModel
        ("timm_resnet", {"library": "bag_of_words", "kwargs": {"width": 16}}),  # VisionTextDualEncoderModel
    ],
)
def test_the_library_gives_our_features(
    image: str, text: str | dict[str, Any], tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    model = tiny_model(tokenizer, image, text)
    exported = export_model(model, ["sentence_transformers"], tmp_path / "out", examples=EXAMPLES)
    found = exported.agreements["sentence_transformers"]
    assert max(found.image, found.text, found.zero_shot) <= TOLERANCE


def test_what_transformers_cannot_express_is_told(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", {"library": "bag_of_words", "projection": "mlp"})
    with pytest.raises(ModelError, match=r"sentence_transformers needs .* a head of two layers .*the format onnx can"):
        export_model(model, ["sentence_transformers"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_leaves_the_format_out(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", "open_clip_causal")
    for package in ("sentence_transformers", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    exported = export_model(model, "all", tmp_path / "out")
    assert exported.left_out == {
        "sentence_transformers": "the format sentence_transformers needs sentence_transformers: "
        "pip install 'mmcontrast[export]'",
        "onnx": "the format onnx needs onnxruntime: pip install 'mmcontrast[export]'",
    }
    assert (exported.folder / "model.safetensors").is_file()
    assert not (exported.folder / "modules.json").exists()
