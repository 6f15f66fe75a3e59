from __future__ import annotations

import copy
import math

import pytest
import torch
from model_fakes import CAPTIONS, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_model, tiny_spec
from PIL import Image

from mmcontrast.errors import ModelError
from mmcontrast.models import ClipTokenizer, DualEncoder, SentencePieceTokenizer, build_dual_encoder


@pytest.fixture
def model(tokenizer: SentencePieceTokenizer) -> DualEncoder:
    return tiny_model(tokenizer)


def _batch(model: DualEncoder, n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = model.tokenizer(CAPTIONS[:n])
    pixels = torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pixels, tokens.input_ids, tokens.attention_mask


def test_pictures_in_any_number_and_batch_size(model: DualEncoder, pictures: list[Image.Image]) -> None:
    features = model.encode_image(pictures)
    assert features.shape == (4, model.embed_dim)
    torch.testing.assert_close(features, model.encode_image(pictures, batch_size=3))
    torch.testing.assert_close(features[1:2], model.encode_image(pictures[1]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_captions_in_any_number_and_batch_size(model: DualEncoder) -> None:
    features = model.encode_text(CAPTIONS)
    torch.testing.assert_close(features, model.encode_text(CAPTIONS, batch_size=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[2:3], model.encode_text(CAPTIONS[2]), atol=1e-5, rtol=0)


def test_lists_are_encoded_in_evaluation_mode_and_the_mode_is_given_back(
    tokenizer: SentencePieceTokenizer, pictures: list[Image.Image]
) -> None:
    model = tiny_model(
        tokenizer, {**IMAGE_TOWERS["timm_resnet"], "dropout": 0.5}, {**TEXT_TOWERS["hf_bert_mean"], "dropout": 0.5}
    )
    model.train()
    model.image_projection.eval()  # a caller's own choice, to be kept
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    assert torch.equal(model.encode_image(pictures), model.encode_image(pictures))
    assert torch.equal(model.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert not model.encode_image(pictures).requires_grad
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # batch norm too


def test_an_error_gives_the_mode_back_too(model: DualEncoder) -> None:
    with pytest.raises(ModelError):
        model.encode_text(["a dog", 3])  # type: ignore[list-item]
    assert model.training


def test_tensors_keep_gradients(model: DualEncoder) -> None:
    pixels, ids, mask = _batch(model)
    assert model.encode_image(pixels).requires_grad
    assert model.encode_text(ids, mask).requires_grad


def test_uint8_and_normalised_floats_agree(model: DualEncoder, pictures: list[Image.Image]) -> None:
    model.eval()
    pixels = model.preprocess.batch(pictures)
    torch.testing.assert_close(model.encode_image(pixels), model.encode_image(model.preprocess.normalise(pixels)))
    torch.testing.assert_close(model.encode_image(pixels), model.encode_image(pictures))


def test_the_scale_is_the_exponential_of_its_parameter(model: DualEncoder) -> None:
    features = model(*_batch(model))
    assert model.logit_scale.shape == (1,)
    assert features.logit_scale.shape == ()
    assert features.logit_scale.item() == pytest.approx(1 / 0.07)
    assert features.logit_bias is None


def test_the_scale_is_clamped_and_can_come_back(model: DualEncoder) -> None:
    model.logit_scale.data.fill_(9.0)
    assert model(*_batch(model)).logit_scale.item() == pytest.approx(100)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    model(*_batch(model)).logit_scale.backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() == pytest.approx(100, rel=1e-4)  # on the bound it still learns
    model.logit_scale.data.fill_(-1.0)
    assert model(*_batch(model)).logit_scale.item() == 1


def test_fixed_scale_and_learnt_bias(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, logit_scale=10.0, logit_scale_learnable=False, logit_bias=-10.0)
    features = model(*_batch(model))
    assert not features.logit_scale.requires_grad
    assert features.logit_scale.item() == pytest.approx(10)
    assert features.logit_bias is not None
    assert features.logit_bias.item() == -10
    assert features.logit_bias.requires_grad


def test_locked_towers_do_not_move(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(
        tokenizer, {**IMAGE_TOWERS["timm_resnet"], "locked": True}, {**TEXT_TOWERS["hf_bert_mean"], "locked": True}
    ).train()
    assert not any(m.training for m in model.image_encoder.modules())
    assert not any(m.training for m in model.text_encoder.modules())
    assert model.image_projection.training
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    features = model(*_batch(model))
    (features.image * features.text).sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"image_projection.linear.weight", "text_projection.linear.weight"}
    assert model.set_gradient_checkpointing() == []


def test_unlocked_batch_norm_does_move(model: DualEncoder) -> None:
    before = copy.deepcopy(model.state_dict())
    model(*_batch(model))
    assert any("running_mean" in n for n, v in model.state_dict().items() if not torch.equal(v, before[n]))


def test_a_seed_fixes_the_weights_and_leaves_the_callers_randomness(tokenizer: SentencePieceTokenizer) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tiny_model(tokenizer)
    assert torch.equal(torch.rand(3), expected)
    second = tiny_model(tokenizer)
    other = build_dual_encoder(tiny_spec(), tokenizer, seed=1)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.image_projection.linear.weight, other.image_projection.linear.weight)


def test_low_precision_weights_give_float_features(model: DualEncoder, pictures: list[Image.Image]) -> None:
    features = model.to(torch.bfloat16).encode_image(pictures)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_image([]), "there is no picture to encode: the list is empty"),
        (lambda m: m.encode_text([]), "there is no caption to encode: the list is empty"),
        (lambda m: m.encode_image(["cat.jpg"]), "picture 0 is a str, not a PIL image"),
        (lambda m: m.encode_text(["a", None]), "caption 1 is a NoneType, not a string"),
        (lambda m: m.encode_text("a dog", batch_size=0), "batch_size is 0"),
        (lambda m: m.encode_image(torch.zeros(2, 3, 64, 64)), r"images are \(2, 3, 64, 64\); .* \(n, 3, 32, 32\)"),
        (lambda m: m.encode_image(torch.zeros(3, 32, 32)), r"images are \(3, 32, 32\)"),
        (lambda m: m.encode_image(torch.zeros(0, 3, 32, 32)), r"images are \(0, 3, 32, 32\)"),
        (lambda m: m.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.int64)), r"images are torch.int64"),
        (lambda m: m.encode_text(torch.zeros(2, 3)), r"token ids are torch.float32; the model takes int64"),
        (lambda m: m.encode_text(torch.zeros(3, dtype=torch.int64)), r"token ids are \(3,\)"),
        (
            lambda m: m.encode_text(torch.zeros(1, 25, dtype=torch.int64)),
            "captions have 25 tokens; .* takes 24 at most",
        ),
        (lambda m: m.encode_text(torch.tensor([[2, 9999, 3]])), r"token ids lie in \[2, 9999\]; .* knows 0 to \d+"),
        (lambda m: m.encode_text(torch.tensor([[2, -4, 3]])), r"token ids lie in \[-4, 3\]"),
        (lambda m: m.encode_text(torch.tensor([[2, 3]]), torch.ones(1, 3)), r"attention_mask is \(1, 3\)"),
    ],
)
def test_wrong_inputs_are_one_clear_line(model: DualEncoder, call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["open_clip_causal", "hf_bert_mean"])
def test_the_tokenizer_must_fit_the_text_tower(text: str, tokenizer: SentencePieceTokenizer) -> None:
    with pytest.raises(ModelError, match=r"gives up to 77 tokens, the text tower takes 24 \(model.text.context_length"):
        build_dual_encoder(tiny_spec(text=text), ClipTokenizer(77))
    tower = {**TEXT_TOWERS[text], "kwargs": {**TEXT_TOWERS[text]["kwargs"], "vocab_size": 100}}
    with pytest.raises(ModelError, match=r"the tokenizer has \d+ ids, the text tower only 100"):
        tiny_model(tokenizer, "timm_resnet", tower)


def test_clip_tokens_feed_any_text_tower() -> None:
    model = build_dual_encoder(tiny_spec(text="hf_distilbert"), ClipTokenizer(24), seed=0)
    assert model.encode_text(["a dog!", "two dogs!!"]).shape == (2, 12)
