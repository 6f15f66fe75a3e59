from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from model_fakes import CAPTIONS, CONTEXT, CORPUS, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_model, tiny_spec
from PIL import Image
from safetensors.torch import load_file
from tokenizer_fakes import bert_folder

from mmcontrast.build.parts import model_spec
from mmcontrast.config import load_config
from mmcontrast.errors import ModelError
from mmcontrast.export.checking import TOLERANCE, Examples, check
from mmcontrast.export.formats import export_model
from mmcontrast.export.open_clip_folder import CONFIG, WEIGHTS, point_tokenizer_at
from mmcontrast.export.to_open_clip import write
from mmcontrast.models import (
    ClipTokenizer,
    DualEncoder,
    SentencePieceTokenizer,
    TransformersTokenizer,
    build_dual_encoder,
    train_sentencepiece,
)
from mmcontrast.preprocess import ImagePreprocess

ROOT = Path(__file__).parents[2]
LONG = "a small red dog and a large green tree on the road " * 4
# Text that open_clip's repairs leave as it is, or as SentencePiece's own normalisation leaves it.
TEXTS = [*CAPTIONS, LONG, "  two   spaces ", "ﬁne ＡＢＣ！", "Ｕ＋１", "x"]
RESNET = {"library": "timm", "name": "test_resnet"}
PLAIN_VIT = {"library": "timm", "name": "test_vit", "image_size": 160}
QUICK = {"quick_gelu": True}


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return train_sentencepiece(CORPUS, 420)


@pytest.fixture
def tokenizer(vocabulary: bytes) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(vocabulary, CONTEXT)


def pictures(count: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(int(w), int(h)) for w, h in random.integers(20, 200, (count, 2))]
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


def stirred(model: DualEncoder) -> DualEncoder:
    """With every weight and statistic moved, so that none is forgotten unnoticed."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "logit" not in name:
                value.add_(0.05 * torch.randn_like(value).abs())
    return model.eval()


def tower(base: str | dict[str, Any], table: dict[str, dict[str, Any]], **values: Any) -> dict[str, Any]:
    return {**(table[base] if isinstance(base, str) else base), **values}


def features(folder: Path, texts: list[str], images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of open_clip's own classes and functions, in this process."""
    name = f"local-dir:{folder}"
    clip, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    clip.eval()
    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in images])
        text = clip.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
        return clip.encode_image(pixels, normalize=True), text


def assert_same(model: DualEncoder, folder: Path, texts: list[str] = TEXTS) -> None:
    image, text = features(folder, texts, pictures())
    torch.testing.assert_close(image, model.encode_image(pictures()), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(text, model.encode_text(texts), atol=TOLERANCE, rtol=0)


IMAGES: dict[str, dict[str, Any]] = {
    "timm by its name": RESNET,
    "timm, pooled otherwise": tower(RESNET, {}, kwargs={"global_pool": "max"}),
    "timm with an mlp": tower(RESNET, {}, projection="mlp"),
    "timm ViT by its name": PLAIN_VIT,
    "timm ViT of another size": tower("timm_vit", IMAGE_TOWERS),
    "timm ViT with the mean of its patches": tower(
        "timm_vit", IMAGE_TOWERS, kwargs={"patch_size": 8, "global_pool": "avg", "init_values": 0.5}
    ),
    "open_clip ViT": tower("open_clip_vit", IMAGE_TOWERS, kwargs={**IMAGE_TOWERS["open_clip_vit"]["kwargs"], **QUICK}),
    "open_clip ViT with its own projection": tower("open_clip_vit", IMAGE_TOWERS, projection="none"),
    "open_clip ResNet": tower("open_clip_resnet", IMAGE_TOWERS, projection="linear"),
    "open_clip ResNet with its own projection": tower("open_clip_resnet", IMAGE_TOWERS, projection="none"),
    "open_clip's timm": tower("open_clip_timm", IMAGE_TOWERS),
    "open_clip's timm with its own head": {
        "library": "open_clip",
        "kwargs": {"timm_model_name": "test_resnet", "timm_proj": "mlp"},
        "projection": "none",
    },
    "CLIP of transformers": tower("hf_clip", IMAGE_TOWERS),
    "ViT of transformers": tower("hf_vit", IMAGE_TOWERS),
    "DINOv2 of transformers": tower("hf_dinov2", IMAGE_TOWERS),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_towers(name: str, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    values = {"embed_dim": 48} if name == "timm with an mlp" else {}  # else its hidden layer is too large
    model = stirred(tiny_model(tokenizer, IMAGES[name], bag(), **values))
    write(model, tmp_path)
    assert_same(model, tmp_path)


def bag(**values: Any) -> dict[str, Any]:
    return {"library": "bag_of_words", "kwargs": {"width": 16}, **values}


TEXTS_TOWERS: dict[str, dict[str, Any]] = {
    "causal": tower("open_clip_causal", TEXT_TOWERS),
    "causal with its own projection": tower("open_clip_causal", TEXT_TOWERS, projection="none"),
    "causal with a bias of its own": tower(
        "open_clip_causal",
        TEXT_TOWERS,
        projection="none",
        kwargs={**TEXT_TOWERS["open_clip_causal"]["kwargs"], "proj_bias": True, "quick_gelu": True},
    ),
    "last": tower("open_clip_last", TEXT_TOWERS),
    "CoCa's": tower("open_clip_coca", TEXT_TOWERS),
    "bag of words": bag(),
    "bag of words without a projection": bag(projection="none", kwargs={"width": 12}),
    "CLIP of transformers": tower("hf_clip", TEXT_TOWERS),
    "SigLIP of transformers": tower("hf_siglip", TEXT_TOWERS),
}


@pytest.mark.parametrize("name", TEXTS_TOWERS)
def test_text_towers(name: str, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = stirred(tiny_model(tokenizer, RESNET, TEXTS_TOWERS[name]))
    write(model, tmp_path)
    assert_same(model, tmp_path)


REFUSED = [
    ("timm_resnet", "open_clip_causal", "resnet18 of timm with channels, layers, stem_width at 32 pixels.*the name"),
    (tower(RESNET, {}, kwargs={"output_stride": 8}), "bag", "with output_stride.*differs by"),
    (tower(RESNET, {}, projection="mlp"), "bag", "an mlp head of 96 hidden units"),
    ("open_clip_resnet", "bag", "with an mlp before its embedding"),
    ("hf_siglip", "bag", "siglip_vision_model of transformers with pooling pooler"),
    ("hf_resnet", "bag", "the resnet of transformers"),
    (RESNET, "open_clip_causal_mean", "mean of its tokens"),
    (RESNET, "open_clip_eos", "without a causal mask that does not read its padding"),
    (RESNET, "bag_of_words", "text tower with an mlp"),
    (RESNET, "hf_distilbert", "distilbert of transformers: it knows CLIP's and SigLIP's, roberta"),
    (RESNET, "hf_roberta_eos", "with pooling eos"),
    (RESNET, "hf_bert_mean", "by a name on the Hub, and this one was built without"),
    ("open_clip_vit", tower("open_clip_causal", TEXT_TOWERS, kwargs={"width": 16, "heads": 2, **QUICK}), "one switch"),
]


@pytest.mark.parametrize(("image", "text", "message"), REFUSED)
def test_what_open_clip_cannot_build_is_refused(
    image: Any, text: Any, message: str, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    model = stirred(tiny_model(tokenizer, image, bag() if text == "bag" else text))
    with pytest.raises(ModelError, match=f"open_clip cannot express .*{message}.*; the format onnx can") as error:
        write(model, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_lengths_that_open_clip_cannot_tell_apart(vocabulary: bytes, tmp_path: Path) -> None:
    short = SentencePieceTokenizer(vocabulary, CONTEXT - 4)
    cut = stirred(tiny_model(short, RESNET, "open_clip_causal"))
    write(cut, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["model_cfg"]["text_cfg"]["context_length"] == CONTEXT - 4
    assert_same(cut, tmp_path)
    for text in ("open_clip_last", "hf_siglip"):
        with pytest.raises(ModelError, match=f"model.text.context_length: {CONTEXT}"):
            write(tiny_model(short, RESNET, text), tmp_path / "new")


def test_captions_get_our_ids(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    write(tiny_model(tokenizer, RESNET, "open_clip_causal"), tmp_path)
    ours, theirs = tokenizer(TEXTS), open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    assert theirs.shape == (len(TEXTS), CONTEXT)
    assert torch.equal(theirs, ours.input_ids)  # the longest caption is cut
    text = json.loads((tmp_path / CONFIG).read_text())["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"], text["pad_id"]) == ("eos", tokenizer.eos_id, tokenizer.pad_id)
    assert text["vocab_size"] == tokenizer.vocab_size


def test_clip_s_own_tokenizer_needs_no_files(tmp_path: Path) -> None:
    tokenizer = ClipTokenizer(16)
    model = stirred(build_dual_encoder(tiny_spec(RESNET, "open_clip_causal"), tokenizer, seed=0))
    write(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS}
    texts = [*TEXTS, "“curly” &amp; <end_of_text", "it's 5 o’clock"]
    theirs, ours = open_clip.get_tokenizer(f"local-dir:{tmp_path}"), tokenizer(texts)
    assert isinstance(theirs, open_clip.SimpleTokenizer)
    assert torch.equal(theirs(texts), ours.input_ids)
    assert_same(model, tmp_path)


def test_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    tokenizer = TransformersTokenizer(bert_folder(tmp_path / "bert"), CONTEXT)
    model = stirred(build_dual_encoder(tiny_spec(RESNET, "open_clip_causal"), tokenizer, seed=0))
    (tmp_path / "out").mkdir()
    write(model, tmp_path / "out")
    assert_same(model, tmp_path / "out", [*CAPTIONS, LONG])


def test_crops_of_transformers_are_not_open_clip_s(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer, RESNET, bag())
    model.preprocess = replace(model.preprocess, crop_rounding="down")
    with pytest.raises(ModelError, match="crops that start where transformers' do"):
        write(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_transformers_and_open_clip_share_a_folder(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = stirred(tiny_model(tokenizer, "open_clip_vit", bag()))
    export_model(model, ["open_clip", "transformers"], tmp_path / "both")
    export_model(model, ["transformers"], tmp_path / "one")
    assert_same(model, tmp_path / "both")
    for path in (tmp_path / "one").iterdir():
        if path.name != "mmcontrast_export.json":
            assert (tmp_path / "both" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_pictures_become_the_same_pixels(resize: Any, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer, RESNET, bag())
    model.preprocess = ImagePreprocess(SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), resize, "bilinear")
    write(model, tmp_path)
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}", require_pretrained=True)
    images = [*pictures(20), pictures(1)[0].resize((98, 49))]  # 98 * (32 / 49) is not 64
    theirs = torch.stack([preprocess(image) for image in images])
    torch.testing.assert_close(theirs, model.preprocess.normalise(model.preprocess.batch(images)), atol=1e-6, rtol=0)


def test_scale_and_bias(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", bag(), logit_bias=-10.0, logit_scale=20.0)
    write(model, tmp_path)
    clip = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True)
    assert clip.logit_bias.item() == -10
    assert clip.logit_scale.exp().item() == pytest.approx(20, rel=1e-6)
    assert all(value.dtype in (torch.float32, torch.int64) for value in load_file(tmp_path / WEIGHTS).values())


def test_one_switch_for_the_activation(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    quick = tower("open_clip_vit", IMAGE_TOWERS, kwargs={**IMAGE_TOWERS["open_clip_vit"]["kwargs"], **QUICK})
    text = tower("hf_clip", TEXT_TOWERS)
    text["kwargs"] = {**text["kwargs"], "hidden_act": "quick_gelu"}
    model = stirred(tiny_model(tokenizer, quick, text))
    write(model, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["model_cfg"]["quick_gelu"] is True
    assert_same(model, tmp_path)


def test_a_folder_can_be_moved_and_pushed(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stirred(tiny_model(tokenizer, "open_clip_vit", bag()))
    write(model, tmp_path)
    shutil.move(tmp_path, tmp_path.with_name("elsewhere"))
    monkeypatch.chdir(tmp_path.parent)
    assert_same(model, Path("elsewhere"))
    assert point_tokenizer_at(Path("elsewhere"), "org/name")
    assert not point_tokenizer_at(Path("elsewhere"), "org/name")
    config = json.loads((Path("elsewhere") / CONFIG).read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "org/name"
    assert_same(model, Path("elsewhere"))
    assert not point_tokenizer_at(tmp_path.parent, "org/name")


def test_open_clip_in_a_process_of_its_own(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    model = stirred(tiny_model(tokenizer, RESNET, bag()))
    write(model, tmp_path)
    curly = "a dog’s “red” ball"  # open_clip straightens the quotes, and this vocabulary knows them
    agreement = check(model, "open_clip", tmp_path, Examples(pictures(), [*CAPTIONS, curly], classes=7))
    assert agreement.rewritten == 1


def test_a_text_tower_by_its_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TransformersTokenizer(bert_folder(tmp_path / "bert"), CONTEXT)
    model = build_dual_encoder(tiny_spec("open_clip_vit", "hf_bert_mean"), tokenizer, seed=0)
    model.extra["built_from"]["text"]["name"] = "org/bert"
    files = tmp_path / "hub" / "models--org--bert" / "snapshots" / ("0" * 40)
    files.mkdir(parents=True)
    refs = tmp_path / "hub" / "models--org--bert" / "refs" / "main"
    refs.parent.mkdir()
    refs.write_text("0" * 40)
    model.text_encoder.model.config.save_pretrained(files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "out").mkdir()
    write(stirred(model), tmp_path / "out")
    assert_same(model, tmp_path / "out", [*CAPTIONS, LONG])


CONFIGS = {
    "emoji_multilingual": None,
    "flickr8k": "resnet18d of timm with channels, output_stride, stem_width",
    "quickstart": "resnet18d of timm with channels, global_pool, output_stride, stem_width",
    "ucm_captions": "resnet18d of timm with channels, output_stride, stem_width",
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs(path: Path, vocabulary: bytes, tmp_path: Path) -> None:
    spec = model_spec(load_config(path))
    model = build_dual_encoder(spec, SentencePieceTokenizer(vocabulary, spec.text.context_length), seed=0)
    if reason := CONFIGS[path.stem]:
        with pytest.raises(ModelError, match=reason):
            write(model, tmp_path)
    else:
        write(stirred(model), tmp_path)
        assert_same(model, tmp_path)
