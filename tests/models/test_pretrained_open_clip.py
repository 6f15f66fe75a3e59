from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from model_fakes import CONTEXT, SIZE, tiny_model, tiny_spec
from safetensors.torch import save_file

from mmcontrast.errors import ModelError
from mmcontrast.models import ClipTokenizer, DualEncoder, SentencePieceTokenizer, build_dual_encoder

CAPTIONS = ["a photo of a dog", "two cats!", "a much longer caption about nothing at all"]
PIXELS = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": SIZE}
TEXT = {"layers": 2, "width": 16, "heads": 2, "context_length": 30, "vocab_size": 49408}


def _folder(
    folder: Path, quick_gelu: bool = False, native: bool = False, vision: dict[str, Any] = VISION, **text: Any
) -> Path:
    config = {"embed_dim": 12, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": {**TEXT, **text}}
    folder.mkdir()
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash", "interpolation": "bilinear"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    cls = open_clip.CLIP if native else open_clip.CustomTextCLIP
    save_file(cls(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _tower(folder: Path, **values: Any) -> dict[str, Any]:
    return {"library": "open_clip", "name": f"local-dir:{folder}", "pretrained": True, **values}


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ({}, {}),
        ({"native": True}, {}),
        ({"native": True, "quick_gelu": True}, {}),
        ({}, {"no_causal_mask": True}),  # MobileCLIP
        ({}, {"no_causal_mask": True, "pool_type": "last"}),  # SigLIP, CLIPA
        ({}, {"pool_type": "eos", "eos_id": 49407}),
        ({}, {"embed_cls": True}),  # CoCa
    ],
)
def test_a_checkpoint_gives_the_features_of_open_clip(
    layout: dict[str, bool], text: dict[str, Any], tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "clip", **layout, **text)
    tower = _tower(folder, projection="none")
    model = build_dual_encoder(tiny_spec(tower, tower), ClipTokenizer(CONTEXT)).eval()
    clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, force_custom_text=True).eval()
    ids = ClipTokenizer(30)(CAPTIONS).input_ids
    full = torch.nn.functional.pad(ids, (0, 30 - ids.shape[1]))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(PIXELS), clip.encode_image(PIXELS, True), atol=1e-5, rtol=0)
        torch.testing.assert_close(model.encode_text(CAPTIONS), clip.encode_text(full, True), atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "ours")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_config.json").unlink()
    again = DualEncoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(again.encode_image(PIXELS), model.encode_image(PIXELS))
    assert again.preprocess.mean == (0.1, 0.2, 0.3)
    assert again.preprocess.resize == "squash"


def test_trunks_of_a_checkpoint_under_a_new_projection(tmp_path: Path) -> None:
    tower = _tower(_folder(tmp_path / "clip"))
    model = build_dual_encoder(tiny_spec(tower, tower, embed_dim=5), ClipTokenizer(CONTEXT))
    assert model.image_projection.linear.weight.shape == (5, 16)
    model.eval().save_pretrained(tmp_path / "ours")
    again = DualEncoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode_image(PIXELS), model.encode_image(PIXELS))


@pytest.mark.parametrize("timm_proj", ["linear", "mlp"])
def test_timm_configs_of_open_clip(timm_proj: str, tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": timm_proj, "image_size": SIZE}
    folder = _folder(tmp_path / "clip", vision=vision)
    clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, force_custom_text=True).eval()
    tower = _tower(folder, projection="none")
    model = build_dual_encoder(tiny_spec(tower, tower), ClipTokenizer(CONTEXT)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(PIXELS), clip.encode_image(PIXELS, True), atol=1e-5, rtol=0)
    trunk = build_dual_encoder(tiny_spec(_tower(folder), tower, embed_dim=12), ClipTokenizer(CONTEXT))
    assert trunk.image_projection.linear.weight.shape == (12, 96)


def test_a_larger_picture_resamples_the_positions(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "clip")
    model = build_dual_encoder(tiny_spec(_tower(folder, image_size=48)), ClipTokenizer(CONTEXT))
    assert model.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 12)


def test_a_named_config_from_scratch(tokenizer: SentencePieceTokenizer) -> None:
    small = {"width": 16, "layers": 1, "head_width": 8}
    image = {"library": "open_clip", "name": "ViT-B-16", "kwargs": small, "image_size": 32}
    text = {"library": "open_clip", "name": "ViT-B-16", "kwargs": {"width": 16, "layers": 1, "heads": 2}}
    model = tiny_model(tokenizer, image, text)
    config = model.spec.text.kwargs
    # The vocabulary, length and end mark are ours; nobody who reads the config will pool at the greatest id.
    assert (config["vocab_size"], config["context_length"]) == (tokenizer.vocab_size, CONTEXT)
    assert (config["pool_type"], config["eos_id"]) == ("eos", tokenizer.eos_id)
    assert model.spec.image.kwargs["patch_size"] == 16


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({}, r"model.image: give name \(an open_clip config\) or kwargs"),
        ({"name": "ViT-B-33"}, "model.image.name: open_clip has no config 'ViT-B-33'; near: ViT-B-32"),
        ({"kwargs": {"widht": 3}}, "open_clip has no field widht; did you mean width"),
        ({"name": "ViT-B-32", "pretrained": True}, "pretrained for ViT-B-32 must be a file or one of the tags openai"),
        (
            {"name": "ViT-B-32", "pretrained": "nothing"},
            "open_clip cannot build ViT-B-32: .*'nothing' is not a known tag",
        ),
        ({"kwargs": {"width": 8}, "pretrained": "x.pt"}, "pretrained open_clip weights need a name"),
        ({"name": "local-dir:nowhere", "pretrained": True}, "its open_clip config cannot be read: .*No such file"),
        (
            {"name": "ViT-B-32", "pretrained": "openai", "kwargs": {"quick_gelu": False}},
            "pretrained 'openai': the weights were trained with quick_gelu True, but the config says False",
        ),
        (
            {"name": "ViT-B-32-quickgelu", "pretrained": "laion2b_e16"},
            r"(trained with quick_gelu False, but the config says True|is not a known tag)",
        ),
    ],
)
def test_wrong_image_towers_are_one_clear_line(
    tokenizer: SentencePieceTokenizer, tower: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        tiny_model(tokenizer, {"library": "open_clip", **tower})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        (
            {"name": "roberta-ViT-B-32"},
            "is a transformers model: use model.text.library: transformers, name: roberta-base",
        ),
        (
            {"kwargs": {"width": 8, "pool_type": "first"}},
            "pool_type first under a causal mask sees only the begin mark",
        ),
        ({"kwargs": {"width": 8, "pool_type": "none"}}, "pool_type is 'none'; choose argmax"),
    ],
)
def test_wrong_text_towers_are_one_clear_line(
    tokenizer: SentencePieceTokenizer, tower: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        tiny_model(tokenizer, "timm_resnet", {"library": "open_clip", **tower})


def test_the_activation_is_that_of_the_tag(tokenizer: SentencePieceTokenizer) -> None:
    from mmcontrast.models import ImageTowerSpec
    from mmcontrast.models.open_clip_config import read_recipe

    recipes = {
        tag: read_recipe(ImageTowerSpec("open_clip", "ViT-B-32", tag), "vision_cfg", 512)
        for tag in ("openai", "laion2b_s34b_b79k")
    }
    assert {tag: recipe.quick_gelu for tag, recipe in recipes.items()} == {"openai": True, "laion2b_s34b_b79k": False}


def test_the_programs_logging_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    build_dual_encoder(tiny_spec(_tower(_folder(tmp_path / "clip"))), ClipTokenizer(CONTEXT))
    assert logging.getLogger().handlers == []


def test_a_folder_without_weights_is_never_random(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.image: open_clip cannot build .*Required pretrained weights"):
        build_dual_encoder(tiny_spec(_tower(folder)), ClipTokenizer(CONTEXT))


def test_a_checkpoint_of_another_length_or_vocabulary_is_refused(
    tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    tower = _tower(_folder(tmp_path / "clip"))
    with pytest.raises(ModelError, match="context_length is 40, but the text tower has 30 positions"):
        build_dual_encoder(tiny_spec(text={**tower, "context_length": 40}), ClipTokenizer(CONTEXT))
    with pytest.raises(ModelError, match=r"knows 49408 ids, the tokenizer \d+: its weights mean other words"):
        tiny_model(tokenizer, "timm_resnet", tower)
