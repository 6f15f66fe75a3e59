from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_fakes import CAPTIONS, CONTEXT, SIZE, TINY_BERT, TINY_VIT, tiny_model, tiny_spec
from tokenizer_fakes import bert_folder

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder, SentencePieceTokenizer, TransformersTokenizer, build_dual_encoder

PIXELS = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def clip_folder(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> Path:
    marks = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    text = {**TINY_BERT, **marks, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 30}
    vision = {**TINY_VIT, "image_size": SIZE}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def _tower(folder: Path, **values: Any) -> dict[str, Any]:
    return {"library": "transformers", "name": str(folder), "pretrained": True, **values}


def test_both_parts_of_a_clip_model_with_their_projections(
    clip_folder: Path, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    tower = _tower(clip_folder, projection="none")
    model = tiny_model(tokenizer, tower, tower).eval()
    clip = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokens = tokenizer(CAPTIONS)
    with torch.no_grad():
        outputs = clip(pixel_values=PIXELS, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        torch.testing.assert_close(model.encode_image(PIXELS), outputs.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.encode_text(CAPTIONS), outputs.text_embeds, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "ours")
    (clip_folder / "model.safetensors").unlink()  # loading must not go back to the source
    (clip_folder / "config.json").unlink()
    again = DualEncoder.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert str(clip_folder) not in str(again.spec)


def test_a_linear_projection_replaces_that_of_the_checkpoint(
    clip_folder: Path, tokenizer: SentencePieceTokenizer
) -> None:
    model = tiny_model(tokenizer, _tower(clip_folder), _tower(clip_folder), embed_dim=7)
    assert model.image_projection.linear.weight.shape == (7, 16)
    assert model.encode_text(CAPTIONS).shape == (6, 7)


def test_siglip_reads_its_padding(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    text = {**TINY_BERT, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 28, "projection_size": 16}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.SiglipConfig(text_config=text, vision_config={**TINY_VIT, "image_size": SIZE})
    transformers.SiglipModel(config).save_pretrained(tmp_path)
    tower = _tower(tmp_path, projection="none")
    model = tiny_model(tokenizer, tower, tower, embed_dim=16).eval()
    siglip = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    ids = tokenizer(CAPTIONS).input_ids
    full = torch.nn.functional.pad(ids, (0, 28 - ids.shape[1]))
    with torch.no_grad():
        outputs = siglip(pixel_values=PIXELS, input_ids=full)
        torch.testing.assert_close(model.encode_image(PIXELS), outputs.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.encode_text(CAPTIONS), outputs.text_embeds, atol=1e-5, rtol=0)


def test_bert_with_its_own_tokenizer(tmp_path: Path) -> None:
    tokenizer = TransformersTokenizer(bert_folder(tmp_path), CONTEXT)
    config = transformers.BertConfig(**TINY_BERT, vocab_size=tokenizer.vocab_size, max_position_embeddings=40)
    transformers.BertModel(config).save_pretrained(tmp_path)
    model = build_dual_encoder(tiny_spec("open_clip_vit", _tower(tmp_path)), tokenizer, seed=0).eval()
    bert = transformers.BertModel.from_pretrained(tmp_path).eval()
    tokens = tokenizer(["a red dog"])
    with torch.no_grad():
        hidden = bert(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        torch.testing.assert_close(model.text_encoder(tokens.input_ids, tokens.attention_mask), hidden.mean(dim=1))


def test_the_encoder_of_a_t5_model(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    model = tiny_model(tokenizer, "open_clip_vit", _tower(tmp_path)).eval()
    assert not any("decoder" in name for name in model.state_dict())
    expected = transformers.T5EncoderModel.from_pretrained(tmp_path).shared.weight
    assert torch.equal(model.text_encoder.model.shared.weight, expected)


def test_preprocessing_is_the_checkpoints_own(
    clip_folder: Path, tokenizer: SentencePieceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    assert tiny_model(tokenizer, _tower(clip_folder)).preprocess.resize == "shortest"
    assert "has no preprocessor_config.json" in caplog.text
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 8, "width": 8}}
    processor = transformers.ViTImageProcessor(**values, resample=2)
    processor.save_pretrained(clip_folder)
    preprocess = tiny_model(tokenizer, _tower(clip_folder)).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (preprocess.resize, preprocess.interpolation, preprocess.image_size) == ("squash", "bilinear", SIZE)


def test_another_image_size_interpolates_the_positions(clip_folder: Path, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, _tower(clip_folder, image_size=48))
    assert model.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, 12)


def test_a_vit_trained_without_pooler_is_whole(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    config = transformers.ViTConfig(**TINY_VIT, image_size=SIZE, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    assert tiny_model(tokenizer, _tower(tmp_path)).encode_image(PIXELS).shape == (2, 12)
    tower = _tower(tmp_path, kwargs={"pooling": "pooler"})
    with pytest.raises(ModelError, match=r"has no weights for pooler.dense"):
        tiny_model(tokenizer, tower)


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ({"name": "absent/folder/here"}, r"model.text.name: no transformers config in 'absent/folder/here'"),
        ({"kwargs": {}}, r"model.text: give name .* or kwargs.model_type"),
        ({"kwargs": {"model_type": "berd"}}, r"kwargs.model_type: transformers has no 'berd'; near: bert"),
        ({"kwargs": {"model_type": "bert", "hiden_size": 8}}, r"no field hiden_size; did you mean hidden_size"),
        ({"kwargs": {"model_type": "bert", "pooling": "max"}}, r"pooling is 'max'; bert takes mean, cls, eos, pooler"),
        ({"kwargs": {"model_type": "siglip_text_model", "pooling": "mean"}}, r"siglip_text_model takes pooler"),
        (
            {"kwargs": {"model_type": "bert", "max_position_embeddings": 8, **TINY_BERT}},
            r"context_length is 24, but the text tower has 8 positions",
        ),
    ],
)
def test_wrong_text_towers_are_one_clear_line(
    tokenizer: SentencePieceTokenizer, tower: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        tiny_model(tokenizer, "open_clip_vit", {"library": "transformers", **tower})
    assert "\n" not in str(caught.value)


def test_a_pretrained_vocabulary_needs_its_tokenizer(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    config = transformers.BertConfig(**TINY_BERT, vocab_size=tokenizer.vocab_size + 3000)
    transformers.BertModel(config).save_pretrained(tmp_path / "large")
    with pytest.raises(ModelError, match=r"knows \d+ ids, the tokenizer \d+: its weights mean other words"):
        tiny_model(tokenizer, "open_clip_vit", _tower(tmp_path / "large"))
    config = transformers.RobertaConfig(**TINY_BERT, vocab_size=tokenizer.vocab_size)
    transformers.RobertaModel(config).save_pretrained(tmp_path / "roberta")
    with pytest.raises(ModelError, match="pads with id 1, the tokenizer with 0"):
        tiny_model(tokenizer, "open_clip_vit", _tower(tmp_path / "roberta"))


def test_a_folder_without_weights_is_never_random(clip_folder: Path, tokenizer: SentencePieceTokenizer) -> None:
    (clip_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.image: transformers cannot build"):
        tiny_model(tokenizer, _tower(clip_folder))
