from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from model_fakes import SIZE, tiny_model
from safetensors.torch import save_file

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder, SentencePieceTokenizer

PIXELS = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_from_a_file(name: str, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    size = {"img_size": SIZE} if name == "test_vit" else {}
    trunk = timm.create_model(name, num_classes=1000, **size).eval()
    save_file(trunk.state_dict(), tmp_path / "weights.safetensors")
    trunk.reset_classifier(0)
    tower = {"library": "timm", "name": name, "pretrained": str(tmp_path / "weights.safetensors")}
    model = tiny_model(tokenizer, tower).eval()
    torch.testing.assert_close(model.image_encoder(PIXELS), trunk(PIXELS))
    # Pictures are normalised as the weights were trained, not as CLIP's.
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    model.save_pretrained(tmp_path / "ours")
    (tmp_path / "weights.safetensors").unlink()
    again = DualEncoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode_image(PIXELS), model.encode_image(PIXELS))
    assert again.preprocess == model.preprocess


def test_weights_and_config_from_a_folder(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    trunk = timm.create_model("test_resnet", num_classes=7, stem_type="deep").eval()
    timm.models.save_for_hf(trunk, tmp_path, model_args={"stem_type": "deep"})
    trunk.reset_classifier(0)
    tower = {"library": "timm", "name": f"local-dir:{tmp_path}", "pretrained": True}
    model = tiny_model(tokenizer, tower).eval()
    torch.testing.assert_close(model.image_encoder(PIXELS), trunk(PIXELS))
    assert model.spec.image.name == "test_resnet"
    assert model.spec.image.kwargs["stem_type"] == "deep"


def test_from_scratch_pictures_are_normalised_as_for_clip(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, {"library": "timm", "name": "test_resnet"})
    assert model.preprocess.mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({}, "model.image.name is missing: timm needs the name"),
        ({"name": "resnet19"}, "model.image.name: timm has no model 'resnet19'; near: .*resnet18"),
        ({"name": "resnet18", "kwargs": {"layer": 3}}, "model.image: timm cannot build resnet18: .*layer"),
        ({"name": "resnet18", "pretrained": "no_such_tag"}, "timm cannot build resnet18: .*no_such_tag"),
        ({"name": "resnet18", "pretrained": "absent.safetensors"}, "there is no file absent.safetensors"),
        ({"name": "local-dir:nowhere", "pretrained": True}, "its config cannot be read: .*No such file"),
        ({"name": "test_vit", "image_size": 30}, r"model.image: .*30"),
    ],
)
def test_wrong_towers_are_one_clear_line(
    tokenizer: SentencePieceTokenizer, tower: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        tiny_model(tokenizer, {"library": "timm", **tower})
    assert "\n" not in str(caught.value)
