"""Exports for transformers, read by it in fresh, offline processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file

from mmcontrast.build.parts import model_spec
from mmcontrast.config import load_config
from mmcontrast.errors import ModelError
from mmcontrast.export import checking, probe_transformers, to_transformers
from mmcontrast.export.checking import Agreement, Examples, ask, check, save_examples
from mmcontrast.export.tokenizer_files import write_tokenizer
from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    train_sentencepiece,
)

CAPTIONS = [
    "a red dog on the grass",
    "A photo of two green cars!",
    "ein roter Hund läuft über die Wiese",
    "a small blue tree is on the road",
]
LONG = "a red dog on the grass and a blue tree on the road " * 8
CORPUS = CAPTIONS + [
    f"a {colour} {thing} is on the {place}"
    for colour in ("red", "green", "blue")
    for thing in ("dog", "cat", "car", "tree", "tennis ball")
    for place in ("grass", "road", "table")
]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
CONTEXT, SIZE = 24, 32
Agree = Callable[[DualEncoder], Agreement]

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {"library": "open_clip", "kwargs": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}}
CAUSAL = {"library": "open_clip", "kwargs": {"width": 16, "heads": 2, "layers": 2}}
RESNET = {
    "library": "timm",
    "name": "resnet18d",
    "kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "stem_width": 8, "global_pool": "max"},
}
BAG = {"library": "bag_of_words", "kwargs": {"width": 15}}


def hugging(model_type: str, **kwargs: Any) -> dict[str, Any]:
    return {"library": "transformers", "kwargs": {"model_type": model_type, **kwargs}}


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train_sentencepiece(CORPUS, 400)


@pytest.fixture(scope="module")
def examples() -> Examples:
    generator = np.random.default_rng(0)
    sizes = [(40, 50, 3), (64, 33, 3), (32, 32, 3)]
    pictures = [Image.fromarray(generator.integers(0, 255, size, dtype=np.uint8)) for size in sizes]
    return Examples(pictures, [*CAPTIONS, LONG], classes=len(CAPTIONS))


def built(vocabulary: bytes, image: dict[str, Any], text: dict[str, Any], **values: Any) -> DualEncoder:
    """A model whose weights, biases and batch statistics are all of some size, in evaluation mode."""
    context = text.get("context_length", CONTEXT)
    spec = ModelSpec(
        **{"embed_dim": 12, **values},
        image=ImageTowerSpec(**{"image_size": SIZE, **image}),
        text=TextTowerSpec(**{"context_length": CONTEXT, **text}),
    )
    model = build_dual_encoder(spec, SentencePieceTokenizer(vocabulary, context), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in [*model.image_encoder.parameters(), *model.text_encoder.parameters()]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.train()
    model.image_encoder(torch.randn(4, 3, SIZE, SIZE, generator=generator))
    return model.eval()


def exported(model: DualEncoder, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    to_transformers.write(model, folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.fixture
def agreement(examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agree:
    """As `check`, but within this process, as loading the library takes longer than all else."""

    def within(name: str, folder: Path, examples: Examples) -> dict[str, np.ndarray]:
        save_examples(examples, tmp_path / "examples")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe_transformers.main(str(folder), tmp_path / "examples", str(tmp_path / "result.npz"))
        with np.load(tmp_path / "result.npz") as result:
            return dict(result)

    monkeypatch.setattr(checking, "ask", within)
    return lambda model: check(model, "transformers", tmp_path / "export", examples)


def test_clip_where_both_towers_are(vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    quick = {**VIT, "kwargs": {**VIT["kwargs"], "quick_gelu": True, "ls_init_value": 0.5}}
    model = built(vocabulary, quick, CAUSAL)
    config = exported(model, tmp_path / "export")
    assert config["architectures"] == ["CLIPModel"]
    assert config["vision_config"]["hidden_act"] == "quick_gelu"
    assert config["text_config"]["hidden_act"] == "gelu"
    assert config["text_config"]["eos_token_id"] == model.tokenizer.eos_id
    found = agreement(model)
    assert max(found.image, found.text, found.zero_shot) < 2e-6


def test_projections_of_the_towers_themselves_are_kept(vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    model = built(vocabulary, {**VIT, "projection": "none"}, {**CAUSAL, "projection": "none"})
    assert exported(model, tmp_path / "export")["projection_dim"] == 12
    agreement(model)


def test_a_cnn_of_timm_and_a_bag_of_words_in_a_fresh_process(
    vocabulary: bytes, examples: Examples, tmp_path: Path
) -> None:
    model = built(vocabulary, {**RESNET, "dropout": 0.1}, BAG)
    config = exported(model, tmp_path / "export")
    assert config["architectures"] == ["VisionTextDualEncoderModel"]
    assert config["vision_config"]["model_type"] == "timm_wrapper"
    found = check(model, "transformers", tmp_path / "export", examples)
    assert max(found.image, found.text, found.zero_shot) < 2e-6


def test_pictures_that_transformers_crops_otherwise(vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    model = built(vocabulary, VIT, BAG)
    exported(model, tmp_path / "export")
    picture = Image.linear_gradient("L").convert("RGB").resize((SIZE + 3, SIZE))
    found = check(
        model, "transformers", tmp_path / "export", Examples([picture, picture.crop((0, 0, 32, 32))], CAPTIONS)
    )
    assert found.squared == 1
    model.preprocess = replace(model.preprocess, image_size=SIZE, crop_rounding="down")
    exported(model, tmp_path / "again")
    shutil.rmtree(tmp_path / "examples")
    assert check(model, "transformers", tmp_path / "again", Examples([picture], CAPTIONS)).squared == 0


MIXED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "timm and open_clip": (RESNET, CAUSAL),
    "timm by open_clip and XLM-R": (
        {"library": "open_clip", "kwargs": {"timm_model_name": "test_vit", "timm_pool": "avg"}},
        hugging("xlm-roberta", **BERT),
    ),
    "ViT and BERT by its mean": (hugging("vit", **BERT, patch_size=8), hugging("bert", **BERT)),
    "CLIP and RoBERTa by its first": (
        hugging("clip_vision_model", **BERT, patch_size=8),
        hugging("roberta", pooling="cls", **BERT),
    ),
    "CLIP and a causal mean": (VIT, {"library": "open_clip", "kwargs": {**CAUSAL["kwargs"], "pool_type": "mean"}}),
    "ConvNeXt and DistilBERT": (
        {"library": "timm", "name": "test_convnext"},
        hugging("distilbert", dim=16, n_layers=1, n_heads=2, hidden_dim=32),
    ),
    "DINOv2 and BERT by its pooler": (
        hugging("dinov2", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=8),
        hugging("bert", pooling="pooler", **BERT),
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_towers(name: str, vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    model = built(vocabulary, *MIXED[name])
    same = "CLIPModel" if name.startswith("CLIP and a") else "VisionTextDualEncoderModel"
    assert exported(model, tmp_path / "export")["architectures"] == [same]
    agreement(model)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_can_be_exported(path: Path, vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    spec = model_spec(load_config(path))
    model = build_dual_encoder(spec, SentencePieceTokenizer(vocabulary, spec.text.context_length), seed=0).eval()
    exported(model, tmp_path / "export")
    found = agreement(model)
    assert max(found.image, found.text, found.zero_shot) < 2e-6


SIGLIP = {**BERT, "hidden_size": 12}


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_siglip(library: str, vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    image: dict[str, Any] = hugging("siglip_vision_model", **SIGLIP, patch_size=8)
    text: dict[str, Any] = hugging("siglip_text_model", **SIGLIP)
    if library == "timm":
        size = {"embed_dim": 12, "depth": 1, "num_heads": 2, "patch_size": 8}
        image = {"library": "timm", "name": "vit_base_patch16_siglip_224", "kwargs": size}
        kwargs = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
        text = {"library": "open_clip", "kwargs": {"width": 16, "heads": 2, "layers": 1, **kwargs}}
    model = built(
        vocabulary,
        {**image, "projection": "none"},
        {**text, "context_length": 64, "projection": "none"},
        logit_bias=-10.0,
    )
    assert exported(model, tmp_path / "export")["architectures"] == ["SiglipModel"]
    write_tokenizer(model.tokenizer, tmp_path / "export")  # as the other formats do after it
    agreement(model)
    assert load_file(tmp_path / "export" / "model.safetensors")["logit_bias"].tolist() == [-10.0]


def test_a_tower_that_interpolates_its_positions(vocabulary: bytes, agreement: Agree, tmp_path: Path) -> None:
    image = hugging("vit", **BERT, patch_size=8, image_size=64)
    model = built(vocabulary, image, BAG)
    assert exported(model, tmp_path / "export")["vision_config"]["image_size"] == SIZE
    agreement(model)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "mlp": (RESNET, {**BAG, "projection": "mlp"}, "two layers .*onnx"),
    "both sides": (
        RESNET,
        {"library": "open_clip", "kwargs": {**CAUSAL["kwargs"], "pool_type": "eos", "no_causal_mask": True}},
        "causal",
    ),
    "T5": (RESNET, hugging("t5", d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=32), "t5.*bert.*onnx"),
    "width": (RESNET, hugging("bert", **SIGLIP), "embed_dim below 12"),
    "ModifiedResNet": (
        {"library": "open_clip", "kwargs": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
        BAG,
        "ModifiedResNet.*open_clip",
    ),
    "ResNet": (
        hugging("resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
        BAG,
        "resnet.*hidden_size.*timm",
    ),
    "SigLIP's length": (RESNET, hugging("siglip_text_model", **SIGLIP), "context_length to 64"),
    "SigLIP's head": (
        hugging("siglip_vision_model", **SIGLIP, patch_size=8),
        {**hugging("siglip_text_model", **SIGLIP), "context_length": 64},
        "model.image.projection: none",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_towers_that_transformers_cannot_express(name: str, vocabulary: bytes, tmp_path: Path) -> None:
    image, text, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        to_transformers.write(built(vocabulary, image, text), tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_end_mark_of_id_2(tmp_path: Path) -> None:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=file, vocab_size=60, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ModelError, match="id 2"):
        to_transformers.write(built(file.getvalue(), VIT, CAUSAL), tmp_path)


@pytest.mark.parametrize("name", ["bag of words", "clip", *MIXED])
def test_transformers_4_reads_it_too(name: str, vocabulary: bytes, examples: Examples, tmp_path: Path) -> None:
    python = os.environ.get("MMCONTRAST_TRANSFORMERS_4")
    if not python:
        pytest.skip("MMCONTRAST_TRANSFORMERS_4 names no interpreter that has transformers 4.57")
    if name == "timm and open_clip":
        pytest.skip("transformers 4 hands token_type_ids to CLIP's text tower, which takes none")
    towers = {"bag of words": (RESNET, BAG), "clip": (VIT, CAUSAL), **MIXED}[name]
    model = built(vocabulary, *towers)
    exported(model, tmp_path / "export")
    theirs = ask("transformers", tmp_path / "export", examples, python=python)
    assert np.abs(theirs["image_features"] - model.encode_image(examples.pictures).numpy()).max() < 1e-5
    assert np.abs(theirs["text_features"] - model.encode_text(examples.captions).numpy()).max() < 1e-5
