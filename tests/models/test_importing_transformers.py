from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from foreign_fakes import (
    CAPTIONS,
    CONTEXT,
    clip_processor,
    clip_words,
    hf_clip_folder,
    hf_dual_folder,
    hf_siglip_folder,
    marks,
    pictures,
)
from model_fakes import SIZE, TINY_BERT, TINY_VIT
from safetensors.torch import load_file, save_file

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder


def _theirs(folder: Path, **padding: Any) -> tuple[torch.Tensor, ...]:
    """Image features, text features and logits by transformers alone."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(pictures(), return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = words(CAPTIONS, return_tensors="pt", truncation=True, **{"padding": True, **padding})
    tokens.pop("token_type_ids", None)
    with torch.no_grad():
        outputs = model(pixel_values=pixels.pixel_values, **tokens)
    return outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image


def _ours(model: DualEncoder) -> tuple[torch.Tensor, ...]:
    image, text = model.encode_image(pictures()), model.encode_text(CAPTIONS)
    with torch.no_grad():
        features = model(model.preprocess.batch(pictures()), *_tokens(model))
        logits = features.logit_scale * image @ text.T
        return image, text, logits if features.logit_bias is None else logits + features.logit_bias


def _tokens(model: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = model.tokenizer(CAPTIONS[: len(pictures())])
    return tokens.input_ids, tokens.attention_mask


def _assert_same(folder: Path, again: Path, name: str | None = None, **padding: Any) -> DualEncoder:
    """Features and logits agree with transformers', and do so after saving and loading in our own format."""
    model = DualEncoder.from_pretrained(name or folder)
    for ours, theirs, tolerance in zip(_ours(model), _theirs(folder, **padding), (1e-5, 1e-5, 1e-3), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    model.save_pretrained(again)
    for saved, imported in zip(_ours(DualEncoder.from_pretrained(again)), _ours(model), strict=True):
        assert torch.equal(saved, imported)
    return model


def test_clip(tmp_path: Path) -> None:
    model = _assert_same(hf_clip_folder(tmp_path / "clip"), tmp_path / "ours")
    assert model.spec.image.kwargs["hidden_act"] == "gelu"
    assert model.spec.text.kwargs["hidden_act"] == "quick_gelu"
    assert (model.preprocess.crop_rounding, model.tokenizer.context_length) == ("down", CONTEXT)
    assert model.logit_scale.item() == pytest.approx(3.3)


def test_shards_and_half_precision(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip", max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    _assert_same(folder, tmp_path / "ours")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    for shard in shards:
        halves = {name: value.half() for name, value in load_file(shard).items()}
        save_file(halves, shard, metadata={"format": "pt"})
    model = DualEncoder.from_pretrained(folder)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    shards[0].unlink()
    with pytest.raises(ModelError, match="transformers cannot load it"):
        DualEncoder.from_pretrained(folder)


def test_siglip_beyond_the_usual_scale(tmp_path: Path) -> None:
    model = _assert_same(hf_siglip_folder(tmp_path / "siglip"), tmp_path / "ours", padding="max_length")
    assert model.spec.logit_scale_max == pytest.approx(117.9, abs=0.1)
    assert model.logit_bias is not None
    assert model.logit_bias.item() == pytest.approx(-7.5)
    assert (model.preprocess.resize, model.preprocess.interpolation) == ("squash", "bilinear")


def test_siglip_with_a_mask_over_its_padding_is_refused(tmp_path: Path) -> None:
    folder = hf_siglip_folder(tmp_path / "siglip", mask=True)
    with pytest.raises(ModelError, match=r"gives an attention mask that hides it; set model_input_names"):
        DualEncoder.from_pretrained(folder)


def test_two_models_in_one(tmp_path: Path) -> None:
    _assert_same(hf_dual_folder(tmp_path / "vit-bert"), tmp_path / "ours")


def test_a_clip_tower_and_one_that_counts_from_behind_the_padding(tmp_path: Path) -> None:
    words = clip_words(tmp_path / "clip-roberta")
    vision = transformers.CLIPVisionConfig(**TINY_VIT, image_size=SIZE)
    text = transformers.XLMRobertaConfig(**TINY_BERT, **marks(words), max_position_embeddings=CONTEXT - 1)
    model = _assert_same(hf_dual_folder(tmp_path / "clip-roberta", vision, text), tmp_path / "ours", max_length=10)
    assert model.tokenizer.context_length == CONTEXT - 2  # the padding has id 0


def test_the_greatest_id_of_old_configs(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    _assert_same(folder, tmp_path / "ours")


def test_another_end_mark_is_refused(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"eos_token_id 5 the model reads .* but the tokenizer ends captions with \d+"):
        DualEncoder.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="type 'bert' are not supported; clip, siglip, vision-text-dual-encoder are"):
        DualEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: clip_processor(f, size={"shortest_edge": 48}), r"resized to .*48.* cropped to .*32.* not supported"),
        (lambda f: clip_processor(f, size={"height": 32, "width": 48}), r"are not supported"),
        (lambda f: clip_processor(f, crop_size={"height": 24, "width": 24}), "are not supported"),
        (
            lambda f: clip_processor(f, size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
            "gives pictures of 24 pixels, but the model takes 32",
        ),
        (lambda f: clip_processor(f, resample=1), "resample 1 is not supported"),
        (lambda f: clip_processor(f, do_normalize=False), "do_normalize false"),
        (lambda f: clip_processor(f, do_rescale=False), "do_rescale false"),
        (lambda f: clip_processor(f, rescale_factor=1 / 127.5), "rescale_factor 0.0078"),
        (lambda f: transformers.ConvNextImageProcessor().save_pretrained(f), r"has steps of its own \(_preprocess"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "its image processor cannot be loaded"),
    ],
)
def test_other_preprocessing_is_one_clear_line(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    write(folder)
    with pytest.raises(ModelError, match=message) as caught:
        DualEncoder.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_missing_extra_and_pickled_weights(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    for change, message in (
        ({"visual_projection.weight": None}, "lacks visual_projection.weight"),
        ({"decoder.weight": torch.zeros(1)}, "has unknown weights decoder.weight"),
        ({"text_projection.weight": torch.zeros(12, 15)}, "transformers cannot load it"),
    ):
        changed = {**state, **change}
        save_file({k: v for k, v in changed.items() if v is not None}, weights, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            DualEncoder.from_pretrained(folder)
    weights.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model.safetensors \(pytorch_model.bin is a pickle, which could run"):
        DualEncoder.from_pretrained(folder)


def test_a_tokenizer_that_sets_no_end_mark(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**values, "post_processor": None}))
    with pytest.raises(ModelError, match="its tokenizer sets no end mark"):
        DualEncoder.from_pretrained(folder)


def test_our_own_folder_in_an_export_comes_first(tmp_path: Path) -> None:
    folder = hf_clip_folder(tmp_path / "clip")
    model = DualEncoder.from_pretrained(folder)
    model.templates = ["a {c}"]
    model.save_pretrained(folder / "mmcontrast")
    assert DualEncoder.from_pretrained(folder).templates == ["a {c}"]
    (folder / "mmcontrast" / "model.safetensors").unlink()  # then the other format serves
    assert DualEncoder.from_pretrained(folder).templates is None


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    place = tmp_path / "hub" / "models--someone--clip"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = hf_clip_folder(place / "snapshots" / commit)
    model = _assert_same(folder, tmp_path / "ours", "someone/clip")
    assert model.extra["built_from"]["image"]["name"] == "someone/clip"
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"someone/clip has no model that can be loaded: transformers without safe"):
        DualEncoder.from_pretrained("someone/clip")
    shutil.rmtree(folder)
