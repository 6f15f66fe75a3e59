from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from model_fakes import CAPTIONS, CONTEXT, CORPUS, tiny_model
from PIL import Image
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.export.checking import TOLERANCE, Examples, check
from mmcontrast.export.formats import Exported, export_model
from mmcontrast.export.onnx_example import Encoder
from mmcontrast.export.onnx_graphs import write_graphs
from mmcontrast.export.to_onnx import write
from mmcontrast.models import DualEncoder, SentencePieceTokenizer, train_sentencepiece
from mmcontrast.models.towers_bag_of_words import BagOfWordsTower
from mmcontrast.preprocess import ImagePreprocess


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_sentencepiece(CORPUS, 420), CONTEXT)


def _pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (34 + i, 50, 3), np.uint8)) for i in range(count)]


# Each graph takes seconds to make; all other towers of model_fakes were tried by hand.
PAIRS = [("timm_vit", "hf_bert_mean"), ("open_clip_vit", "open_clip_eos"), ("hf_siglip", "hf_siglip")]


@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_any_towers_in_batches_and_lengths_of_any_size(
    image: str, text: str, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    model = tiny_model(tokenizer, image, text)
    write_graphs(model, tmp_path)
    vision, language = (
        onnxruntime.InferenceSession(tmp_path / f"{name}_model.onnx", providers=["CPUExecutionProvider"])
        for name in ("vision", "text")
    )
    pixels = model.preprocess.normalise(model.preprocess.batch(_pictures(5)))
    model.eval()
    for rows in (slice(0, 1), slice(1, 5)):
        want = model.encode_image(pixels[rows]).detach()
        (got,) = vision.run(["image_embeds"], {"pixel_values": pixels[rows].numpy()})
        torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-5, rtol=0)
    long = ["a small red dog " * 20]
    for captions in (CAPTIONS, CAPTIONS[:1], long):
        tokens = tokenizer(captions)
        ids, mask = tokens.input_ids, tokens.attention_mask
        (got,) = language.run(["text_embeds"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        want = model.encode_text(ids, mask).detach()
        torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model(tokenizer: SentencePieceTokenizer) -> DualEncoder:
    return tiny_model(tokenizer, "timm_resnet", "bag_of_words")  # convolutions, a head of two layers


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def exported(model: DualEncoder, said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    examples = Examples(_pictures(6), [*CAPTIONS, "a small red dog " * 20], classes=4)
    return export_model(model, ["onnx"], tmp_path_factory.mktemp("onnx"), examples=examples, say=said.append)


def test_onnxruntime_agrees_in_a_fresh_process(exported: Exported) -> None:
    found = exported.agreements["onnx"]
    assert max(found.image, found.text, found.zero_shot) <= TOLERANCE


def test_the_loss_of_int8_is_measured_and_told(exported: Exported, said: list[str]) -> None:
    place = exported.folder / "onnx"
    loss = json.loads((place / "accuracy.json").read_text())
    assert (loss["pictures"], loss["captions"]) == (6, len(CAPTIONS) + 1)
    assert 0.9 < loss["least_image_cosine"] <= loss["image_cosine"] <= 1.0001
    assert 0.9 < loss["least_text_cosine"] <= loss["text_cosine"] <= 1.0001
    full, small = Encoder(place), Encoder(place, "_int8")
    cosine = float((full.encode_text(CAPTIONS) * small.encode_text(CAPTIONS)).sum(axis=1).mean())
    assert cosine < 1 - 1e-6  # it is quantised indeed
    assert any(line.startswith("onnx: int8 against fp32: cosine of pictures 0.9") for line in said)


def test_the_example_runs_without_torch(exported: Exported, model: DualEncoder, tmp_path: Path) -> None:
    (picture,) = _pictures(1)
    picture.save(tmp_path / "picture.png")
    program = (
        "import runpy, sys; path = sys.argv.pop(1); sys.argv[0] = path; runpy.run_path(path, run_name='__main__');"
        "assert not {'torch', 'mmcontrast'} & set(sys.modules)"
    )
    command = [sys.executable, "-I", "-W", "error", "-c", program, str(exported.folder / "onnx" / "example.py")]
    labels = CAPTIONS[:3]
    run = subprocess.run([*command, "picture.png", *labels], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        logits = model.logit_scale.exp() * model.encode_image(picture) @ model.encode_text(labels).T
    shares = logits.softmax(dim=1)[0].tolist()
    assert run.stdout.splitlines() == [f"{share:.3f}  {label}" for share, label in zip(shares, labels, strict=True)]


@pytest.mark.parametrize(("resize", "rounding"), [("shortest", "even"), ("shortest", "down"), ("squash", "even")])
def test_the_example_prepares_pictures_as_we_do(resize: Any, rounding: Any, exported: Exported) -> None:
    encoder = Encoder(exported.folder / "onnx")
    preprocess = ImagePreprocess(31, resize=resize, interpolation="bilinear", crop_rounding=rounding)
    encoder.info.update(preprocess.to_dict())
    (picture,) = _pictures(1)
    turned = picture.copy()
    turned.getexif()[0x0112] = 6
    palette = picture.quantize(8)
    palette.info["transparency"] = bytes(range(8))
    deep = Image.fromarray(np.arange(60 * 40, dtype=np.uint16).reshape(60, 40) * 20)
    odd = [picture, turned, palette, deep, *(picture.convert(mode) for mode in ("CMYK", "RGBA", "L", "1", "I", "F"))]
    for image in [*odd, picture.resize((31, 31)), picture.resize((200, 33))]:
        want = preprocess.normalise(preprocess.pixels(image)[None])[0].numpy()
        np.testing.assert_allclose(encoder.pixels(image), want, atol=1e-6)


def test_a_spoilt_export_is_noticed(exported: Exported, model: DualEncoder, tmp_path: Path) -> None:
    place = tmp_path / "onnx"
    place.mkdir()
    for path in (exported.folder / "onnx").iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    info = json.loads((place / "preprocess.json").read_text())
    (place / "preprocess.json").write_text(json.dumps({**info, "mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ModelError, match="onnx gives other numbers than mmcontrast"):
        check(model, "onnx", tmp_path, Examples(_pictures(2), CAPTIONS, classes=2))


def test_missing_packages_are_named(model: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=r"the format onnx needs onnxscript: pip install 'mmcontrast\[export\]'"):
        export_model(model, ["onnx"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class CountsWords(BagOfWordsTower):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = len(set(input_ids.flatten().tolist()))  # leaves the graph
        return super().forward(input_ids, attention_mask) * words


def test_a_tower_that_is_no_graph_is_told_and_leaves_nothing(model: DualEncoder, tmp_path: Path) -> None:
    odd = copy.deepcopy(model)
    odd.text_encoder = CountsWords(model.tokenizer.vocab_size, CONTEXT, width=16, token_dropout=0.0)
    with pytest.raises(ModelError, match=r"ONNX cannot express the text tower \(.*take the format mmcontrast"):
        write(odd, tmp_path)
    assert list(tmp_path.iterdir()) == []
