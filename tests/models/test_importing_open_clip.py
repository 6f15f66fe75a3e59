from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
import transformers
from foreign_fakes import CAPTIONS, CONTEXT, clip_words, marks, open_clip_folder, pictures
from model_fakes import SIZE, TINY_BERT
from safetensors.torch import load_file, save_file

from mmcontrast.errors import ModelError
from mmcontrast.models import ClipTokenizer, DualEncoder, importing_open_clip
from mmcontrast.models.importing_preprocess import read_open_clip


def _theirs(folder: Path | str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image features, text features and logits by open_clip alone."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    tokenizer, model = open_clip.get_tokenizer(name), model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.stack([preprocess(picture) for picture in pictures()]), normalize=True)
        text = model.encode_text(tokenizer(CAPTIONS), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return image, text, logits


def _ours(model: DualEncoder) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image, text = model.encode_image(pictures()), model.encode_text(CAPTIONS)
    with torch.no_grad():
        logits = model.logit_scale.exp() * image @ text.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return image, text, logits


def _assert_same(folder: Path, again: Path, name: str | None = None) -> DualEncoder:
    """Features and logits agree with open_clip's, and do so after saving and loading in our own format."""
    model = DualEncoder.from_pretrained(name or folder)
    for ours, theirs, tolerance in zip(_ours(model), _theirs(folder), (1e-5, 1e-5, 3e-4), strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    model.save_pretrained(again)
    for saved, imported in zip(_ours(DualEncoder.from_pretrained(again)), _ours(model), strict=True):
        assert torch.equal(saved, imported)
    return model


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"custom_text": False},
        {"custom_text": False, "quick_gelu": True},
        {"init_logit_bias": -10.0, "nonscalar_logit_scale": True},
        {"preprocess": {"resize_mode": "squash", "interpolation": "bilinear"}},
        {"vision": {"layers": [1, 1, 1, 1], "patch_size": None, "width": 8}},
        {"vision": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.1}},
        {"vision": {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}},
        {"text": {"no_causal_mask": True}},
        {"text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}}},
        {"text": {"embed_cls": True}},
        {"text": {"pool_type": "eos", "eos_id": 49407}},
    ],
    ids=str,
)
def test_numbers_are_those_of_open_clip(values: dict[str, Any], tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip", **values)
    model = _assert_same(folder, tmp_path / "ours")
    assert model.preprocess.mean == (0.1, 0.2, 0.3)
    assert model.tokenizer.context_length == CONTEXT


def test_the_name_of_open_clip_and_half_precision(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, folder / "open_clip_model.safetensors")
    model = _assert_same(folder, tmp_path / "ours", f"local-dir:{folder}")
    assert model.extra["built_from"]["image"]["library"] == "open_clip"
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("cleaning", ["whitespace", "lower", "canonicalize"])
def test_a_tokenizer_of_transformers_in_the_folder(cleaning: str, tmp_path: Path) -> None:
    words = clip_words(tmp_path / "clip")
    text = {"hf_tokenizer_name": "someone/elsewhere", "tokenizer_kwargs": {"clean": cleaning}}
    folder = open_clip_folder(tmp_path / "clip", text={**text, "vocab_size": len(words)})
    model = _assert_same(folder, tmp_path / "ours")
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    ids = DualEncoder.from_pretrained(tmp_path / "ours").tokenizer(CAPTIONS).input_ids
    assert torch.equal(torch.nn.functional.pad(ids, (0, CONTEXT - ids.shape[1]), value=model.tokenizer.pad_id), theirs)


def test_an_end_mark_that_is_stripped(tmp_path: Path) -> None:
    """CLIPA's way: the end mark becomes 0, the padding, which the tower reads."""
    words = clip_words(tmp_path / "clip", sep_token="</s>")
    options = {"tokenizer_kwargs": {"strip_sep_token": True}, "no_causal_mask": True, "pool_type": "last"}
    text = {"hf_tokenizer_name": "x", "vocab_size": len(words), **options}
    model = _assert_same(open_clip_folder(tmp_path / "clip", text=text), tmp_path / "ours")
    assert model.tokenizer(CAPTIONS).input_ids[0, -1] == 0


@pytest.mark.parametrize(
    ("pooler", "projection", "embed_dim"),
    [
        ("mean_pooler", "mlp", 12),
        ("mean_pooler", "linear", 12),
        ("cls_pooler", "linear", 12),
        ("cls_last_hidden_state_pooler", None, 16),
    ],
)
def test_text_towers_of_transformers(pooler: str, projection: str | None, embed_dim: int, tmp_path: Path) -> None:
    words = clip_words(tmp_path / "clip")
    bert = transformers.RobertaConfig(**TINY_BERT, **marks(words), max_position_embeddings=20)
    bert.save_pretrained(tmp_path / "bert")
    text = {"hf_model_name": str(tmp_path / "bert"), "hf_tokenizer_name": "x", "context_length": CONTEXT}
    folder = open_clip_folder(
        tmp_path / "clip",
        embed_dim=embed_dim,
        text={**text, "hf_pooler_type": pooler, "hf_proj_type": projection, "vocab_size": len(words)},
    )
    _assert_same(folder, tmp_path / "ours")


def test_coca_without_its_decoder(tmp_path: Path) -> None:
    decoder = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True}
    text = {"embed_cls": True, "output_tokens": True}
    folder = open_clip_folder(tmp_path / "coca", vision=vision, text=text, multimodal_cfg=decoder)
    model = _assert_same(folder, tmp_path / "ours")
    assert not any("decoder" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preprocess": {"resize_mode": "longest"}}, "preprocess_cfg.resize_mode is 'longest'; only shortest and sq"),
        ({"preprocess": {"size": 48}}, f"preprocess_cfg.size is 48, but the image tower takes {SIZE}"),
        ({"preprocess": {"crop_pct": 0.9}}, "preprocess_cfg has the unknown field crop_pct"),
        ({"text": {"tokenizer_kwargs": {"clean": "whitespace"}}}, "clean 'whitespace' is not supported with CLIP's"),
        ({"text": {"tokenizer_kwargs": {"reduction_mask": "simple"}}}, "tokenizers with reduction_mask are not supp"),
        ({"text": {"pool_type": "eos", "eos_id": 2}}, "pool_type eos reads captions at id 2, but .* with 49407"),
        ({"text": {"pool_type": "first"}}, "pool_type first under a causal mask sees only the begin mark"),
    ],
    ids=str,
)
def test_what_would_change_the_numbers_is_one_clear_line(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip", **values)
    with pytest.raises(ModelError, match=message) as caught:
        DualEncoder.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frobnicate": 1}, "model_cfg has the unknown field frobnicate"),
        ({"vision_cfg": {"layers": 1, "width": 8, "head_width": 8, "widht": 9}}, "no field widht; did you mean width"),
        ({"vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "image_size": [32, 48]}}, "only square ones are"),
        ({"vision_cfg": {"layers": 3, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}}, "lacks image"),
        ({"vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}}, "account for"),
        ({"vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 48}}, "by its con"),
        ({"text_cfg": {"hf_model_name": "x", "hf_pooler_type": "max_pooler"}}, "hf_model_name 'x': its config cannot"),
    ],
    ids=str,
)
def test_a_config_that_the_weights_contradict(change: dict[str, Any], message: str, tmp_path: Path, hub: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip")
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    values["model_cfg"] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message):
        DualEncoder.from_pretrained(folder)


def test_other_weights_and_pickles(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip")
    weights = folder / "open_clip_model.safetensors"
    state = load_file(weights)
    save_file({**state, "visual.extra": torch.zeros(1)}, weights)
    with pytest.raises(ModelError, match=r"does not account for: image_encoder.visual.extra"):
        DualEncoder.from_pretrained(folder)
    save_file({name: value for name, value in state.items() if name != "logit_scale"}, weights)
    with pytest.raises(ModelError, match="lacks logit_scale"):
        DualEncoder.from_pretrained(folder)
    weights.write_bytes(b"cut")
    with pytest.raises(ModelError, match="is damaged"):
        DualEncoder.from_pretrained(folder)
    weights.unlink()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"\(open_clip_pytorch_model.bin is a pickle, which could run code"):
        DualEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33/openai", "open_clip has no config 'ViT-B-33'; near: ViT-B-32"),
        ("open_clip:ViT-B-32/none", "ViT-B-32 has no tag 'none', but openai, "),
        ("open_clip:ViT-B-32", r"write open_clip:ARCHITECTURE/TAG"),
        (
            "open_clip:ViT-B-32/openai",
            "quick_gelu True, but ViT-B-32 has quick_gelu False; take ViT-B-32-quickgelu",
        ),
        ("open_clip:ViT-B/32-quickgelu/openai", r"is a pickle|cannot be had"),
        ("local-dir:nowhere", "nowhere is not a folder"),
        ("ViT-B-32", r"ViT-B-32: weights of ViT-B-32 are named as open_clip:ViT-B-32/TAG \(tags: openai, .*random"),
        ("ViT-B-32/laion2b_s34b_b79k", "are named as open_clip:ViT-B-32/laion2b_s34b_b79k "),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K cannot be had"),
    ],
)
def test_wrong_names_are_one_clear_line(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message) as caught:
        DualEncoder.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_every_config_of_open_clip_is_understood() -> None:
    clip = ClipTokenizer(CONTEXT)  # slow to make
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        assert set(config) <= importing_open_clip._KEYS | importing_open_clip._INITIAL, name
        importing_open_clip._image_tower(config)
        if not config["text_cfg"].get("hf_tokenizer_name"):  # others are had from the Hub
            importing_open_clip._text_tower(config, clip)


def test_every_tag_has_a_preprocessing_and_an_activation() -> None:
    mended = 0
    for architecture, tag in open_clip.list_pretrained():
        known = open_clip.pretrained.get_pretrained_cfg(architecture, tag)
        read_open_clip({key: known[key] for key in ("mean", "std", "interpolation", "resize_mode")}, 224)
        try:
            config = open_clip.get_model_config(architecture)
            importing_open_clip._check_activation("x", architecture, config, known)
        except ModelError as error:
            take = str(error).partition("; take ")[2]
            assert take.startswith("hf-hub:") or take in open_clip.list_models()
            assert take != architecture
            mended += 1
    assert mended > 20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub as its client sees it offline: a cache, empty at first."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _repository(hub: Path, name: str) -> Path:
    """A folder in the cache that the client takes for the repository's main branch."""
    commit = "0" * 40
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    return place / "snapshots" / commit


def test_names_of_the_hub(hub: Path, tmp_path: Path) -> None:
    folder = open_clip_folder(_repository(hub, "someone/clip"))
    for name in ("hf-hub:someone/clip", "someone/clip"):
        _assert_same(folder, tmp_path / "ours", name)
    with pytest.raises(ModelError, match="someone/other is neither a folder here nor to be had from the Hub"):
        DualEncoder.from_pretrained("hf-hub:someone/other")


def test_an_architecture_with_a_tag(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_clip_folder(_repository(hub, "someone/clip"), custom_text=False)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    tag = open_clip.pretrained._pcfg(hf_hub="someone/clip/", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"first": tag})
    _assert_same(folder, tmp_path / "ours", "open_clip:tiny/first")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"open_clip_model.safetensors of someone/clip cannot be had"):
        DualEncoder.from_pretrained("open_clip:tiny/first")
