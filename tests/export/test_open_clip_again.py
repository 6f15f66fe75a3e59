"""A checkpoint of open_clip that was taken in, and is written for open_clip again, gives what it gave before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from foreign_fakes import CAPTIONS, CONTEXT, clip_words, marks, open_clip_folder, pictures
from model_fakes import TINY_BERT

from mmcontrast.export.open_clip_folder import CONFIG
from mmcontrast.export.to_open_clip import write
from mmcontrast.models import DualEncoder


def outputs(folder: Path, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    name = f"local-dir:{folder}"
    clip, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    clip.eval()
    ids = open_clip.get_tokenizer(name)(captions)
    with torch.no_grad():
        pixels = torch.stack([preprocess(picture) for picture in pictures()])
        return ids, clip.encode_image(pixels, normalize=True), clip.encode_text(ids, normalize=True)


def again(folder: Path, new: Path, captions: list[str]) -> dict[str, Any]:
    new.mkdir()
    write(DualEncoder.from_pretrained(folder), new)
    before, after = outputs(folder, captions), outputs(new, captions)
    assert torch.equal(before[0], after[0])
    for theirs, ours in zip(before[1:], after[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return dict(json.loads((new / CONFIG).read_text())["model_cfg"])


@pytest.mark.parametrize(
    "values",
    [
        {"quick_gelu": True, "custom_text": False, "init_logit_bias": -10.0},
        {"vision": {"layers": [1, 1, 1, 1], "patch_size": None, "width": 8}, "text": {"embed_cls": True}},
        {
            "vision": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True, "ls_init_value": 0.1},
            "text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "norm_kwargs": {"eps": 1e-6}},
        },
        {
            "vision": {
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "attn_pooler_queries": 8,
                "patch_dropout": 0.5,
            },
            "preprocess": {"resize_mode": "squash", "interpolation": "bilinear"},
        },
        {"vision": {"timm_model_name": "test_vit", "timm_pool": "avg", "image_size": 160}},
    ],
    ids=str,
)
def test_towers(values: dict[str, Any], tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip", **values)
    config = again(folder, tmp_path / "again", [*CAPTIONS, "“curly” &amp; 5 o’clock"])
    assert config["quick_gelu"] is bool(values.get("quick_gelu"))
    assert ("init_logit_bias" in config) is ("init_logit_bias" in values)


@pytest.mark.parametrize("cleaning", ["whitespace", "lower", "canonicalize"])
def test_a_tokenizer_whose_captions_are_cleaned(cleaning: str, tmp_path: Path) -> None:
    words = clip_words(tmp_path / "clip")
    text = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": cleaning}, "vocab_size": len(words)}
    folder = open_clip_folder(tmp_path / "clip", text=text)
    # What is straightened by open_clip was so in training, too, and is the same here.
    config = again(folder, tmp_path / "again", [*CAPTIONS, "A “curly” dog &amp; cat, 5 o’clock"])
    assert config["text_cfg"]["tokenizer_kwargs"] == {"clean": cleaning}


def test_an_end_mark_that_is_stripped(tmp_path: Path) -> None:
    words = clip_words(tmp_path / "clip", sep_token="</s>")
    options = {"tokenizer_kwargs": {"strip_sep_token": True}, "no_causal_mask": True, "pool_type": "last"}
    text = {"hf_tokenizer_name": "x", "vocab_size": len(words), **options}
    config = again(open_clip_folder(tmp_path / "clip", text=text), tmp_path / "again", CAPTIONS)
    assert config["text_cfg"]["tokenizer_kwargs"]["strip_sep_token"] is True


@pytest.mark.parametrize(("pooler", "projection"), [("mean_pooler", "mlp"), ("cls_pooler", "linear")])
def test_a_text_tower_of_the_hub(pooler: str, projection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = clip_words(tmp_path / "clip")
    commit = "0" * 40
    files = tmp_path / "hub" / "models--org--roberta" / "snapshots" / commit
    transformers.RobertaConfig(**TINY_BERT, **marks(words), max_position_embeddings=20).save_pretrained(files)
    (files.parents[1] / "refs").mkdir()
    (files.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = {"hf_model_name": "org/roberta", "hf_tokenizer_name": "x", "context_length": CONTEXT}
    more = {"hf_pooler_type": pooler, "hf_proj_type": projection, "vocab_size": len(words)}
    folder = open_clip_folder(tmp_path / "clip", text={**text, **more})
    config = again(folder, tmp_path / "again", CAPTIONS)
    assert config["text_cfg"]["hf_model_name"] == "org/roberta"
    assert config["text_cfg"]["hf_proj_type"] == projection
