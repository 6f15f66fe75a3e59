from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, CONTEXT, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_model, tiny_spec
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizer_fakes import bert_folder

from mmcontrast.errors import ModelError
from mmcontrast.models import (
    ClipTokenizer,
    DualEncoder,
    SentencePieceTokenizer,
    TransformersTokenizer,
    build_dual_encoder,
    finding,
    saving,
)

PAIRS = list(zip(IMAGE_TOWERS, list(TEXT_TOWERS)[: len(IMAGE_TOWERS)], strict=True))
PAIRS += [("timm_vit", text) for text in list(TEXT_TOWERS)[len(IMAGE_TOWERS) :]]


@pytest.fixture
def saved(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> Path:
    tiny_model(tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _pixels() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_a_loaded_model_gives_exactly_the_same_features(
    image: str, text: str, tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tokenizer, image, text, logit_bias=-3.0).train()
    model(_pixels(), *_ids(model))  # batch-norm statistics move
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = DualEncoder.from_pretrained(tmp_path / "model")
    assert not again.training
    assert torch.equal(again.encode_image(_pixels()), model.eval().encode_image(_pixels()))
    assert torch.equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(again.logit_scale, model.logit_scale)
    assert again.logit_bias is not None
    assert again.logit_bias.item() == -3
    assert again.spec == model.spec
    again.save_pretrained(tmp_path / "twice")
    assert json.loads((tmp_path / "twice/config.json").read_text()) == json.loads(
        (tmp_path / "model/config.json").read_text()
    )


def _ids(model: DualEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = model.tokenizer(CAPTIONS[:3])
    return tokens.input_ids, tokens.attention_mask


def test_every_kind_of_tokenizer_is_saved(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    for kind in (tokenizer, ClipTokenizer(CONTEXT), TransformersTokenizer(bert_folder(tmp_path / "bert"), CONTEXT)):
        model = build_dual_encoder(tiny_spec(), kind, seed=0).eval()
        model.save_pretrained(tmp_path / kind.kind)
        again = DualEncoder.from_pretrained(tmp_path / kind.kind)
        assert torch.equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))


def test_the_folder_holds_what_is_promised(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer)
    model.templates = ["a photo of a {c}.", "{c} の写真"]
    model.extra["note"] = 1
    model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer",
    ]
    config = json.loads((tmp_path / "model/config.json").read_text(encoding="utf-8"))
    assert set(config) == {"format_version", "spec", "preprocess", "tokenizer", "templates", "extra"}
    assert config["tokenizer"]["vocab_size"] == tokenizer.vocab_size
    assert config["extra"]["built_from"]["image"] == {"library": "timm", "name": "resnet18", "pretrained": False}
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert len(modes) == 1  # others may read the weights where they may read the config
    again = DualEncoder.from_pretrained(tmp_path / "model")
    assert again.templates == model.templates
    assert again.extra["note"] == 1


def test_saving_again_replaces_the_model_and_keeps_other_files(saved: Path, tokenizer: SentencePieceTokenizer) -> None:
    (saved / "README.md").write_text("card")
    (saved / "assets").mkdir()
    (saved / "assets" / "plot.png").write_bytes(b"x")
    model = build_dual_encoder(tiny_spec(embed_dim=6), tokenizer)
    model.save_pretrained(saved)
    assert DualEncoder.from_pretrained(saved).embed_dim == 6
    assert (saved / "README.md").read_text() == "card"
    assert (saved / "assets" / "plot.png").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["model"]  # nothing left beside it


def test_a_failed_save_leaves_the_old_model(
    saved: Path, tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (saved / "model.safetensors").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(saving, "save_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        build_dual_encoder(tiny_spec(embed_dim=6), tokenizer).save_pretrained(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert DualEncoder.from_pretrained(saved).embed_dim == 12
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_foreign_folders_are_not_overwritten(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="holds other files than a model"):
        tiny_model(tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a file; a model needs a folder"):
        tiny_model(tokenizer).save_pretrained(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_loading_leaves_the_callers_randomness(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DualEncoder.from_pretrained(saved)
    assert torch.equal(torch.rand(2), expected)


def test_channels_last_weights_are_saved(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval().save_pretrained(tmp_path / "model")
    loaded = DualEncoder.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(loaded.encode_image(_pixels()), model.encode_image(_pixels()), atol=1e-5, rtol=0)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="absent is not a folder"):
        DualEncoder.from_pretrained(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"tokenizer has no config.json"):
        DualEncoder.from_pretrained(saved / "tokenizer")
    shutil.rmtree(saved / "tokenizer")
    with pytest.raises(ModelError, match="no tokenizer in"):
        DualEncoder.from_pretrained(saved)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(saved: Path, pickle: str) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors$"):
        DualEncoder.from_pretrained(saved)
    torch.save({}, saved / pickle)
    with pytest.raises(ModelError, match=rf"has no model.safetensors \({pickle} is a pickle, which could run code"):
        DualEncoder.from_pretrained(saved)


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = load_file(path)
    for change, message in (
        ({"image_projection.linear.weight": None}, "lacks image_projection.linear.weight"),
        ({"decoder.weight": torch.zeros(1)}, "has unknown weights decoder.weight"),
        ({"logit_scale": torch.zeros(2)}, r"logit_scale is \(2,\), but the model's is \(1,\)"),
    ):
        merged = {**weights, **change}
        save_file({k: v for k, v in merged.items() if v is not None}, path)
        with pytest.raises(ModelError, match=message):
            DualEncoder.from_pretrained(saved)
    path.write_bytes(b"cut off")
    with pytest.raises(ModelError, match="is damaged"):
        DualEncoder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"architectures": ["X"]}', "is not a model of mmcontrast: its config.json has no format_version"),
        ('{"format_version": 99}', r"written by a newer mmcontrast \(format 99\)"),
        ('{"format_version": 1}', "is damaged: KeyError: 'spec'"),
    ],
)
def test_damaged_configs_are_refused(saved: Path, text: str, message: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        DualEncoder.from_pretrained(saved)


def test_hub_names_download_only_what_is_needed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **arguments: Any) -> str:
        asked.append({**arguments, "name": name})
        return str(saved)

    monkeypatch.setattr(finding, "snapshot_download", download)
    model = DualEncoder.from_pretrained("someone/model", revision="v1")
    assert model.encode_image(Image.new("RGB", (9, 9))).shape == (1, 12)
    told, whole = asked  # what format it is, and its files
    assert "model.safetensors" not in told["allow_patterns"]
    assert whole == {
        "name": "someone/model",
        "revision": "v1",
        "allow_patterns": ["model.safetensors", "config.json", "tokenizer/*"],
        "ignore_patterns": None,
    }


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(finding, "snapshot_download", download)
    with pytest.raises(ModelError, match=r"someone/model is neither a folder here nor .* Hub: no route to host and"):
        DualEncoder.from_pretrained("someone/model")
