"""What holds for every tower of every library."""

from __future__ import annotations

import pytest
import torch
from model_fakes import CAPTIONS, CONTEXT, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_model
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models import SentencePieceTokenizer
from mmcontrast.models.towers import pool_tokens

PAIRS = list(zip(IMAGE_TOWERS, list(TEXT_TOWERS)[: len(IMAGE_TOWERS)], strict=True))
PAIRS += [("open_clip_vit", text) for text in list(TEXT_TOWERS)[len(IMAGE_TOWERS) :]]


def _images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("image", "text"), PAIRS)
def test_towers_pair_freely_and_every_trainable_weight_learns(
    image: str, text: str, tokenizer: SentencePieceTokenizer
) -> None:
    model = tiny_model(tokenizer, image, text)
    tokens = tokenizer(CAPTIONS)
    features = model(_images(len(CAPTIONS)), tokens.input_ids, tokens.attention_mask)
    assert features.image.shape == features.text.shape == (len(CAPTIONS), 12)
    for side in (features.image, features.text):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(len(CAPTIONS)))
    loss = torch.nn.functional.cross_entropy(
        features.logit_scale * features.image @ features.text.T, torch.arange(len(CAPTIONS))
    )
    loss.backward()
    # A trainable parameter without gradient would stall distributed training.
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_padding_changes_nothing(text: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", text).eval()
    tokens = tokenizer(CAPTIONS)
    spare = CONTEXT - tokens.input_ids.shape[1]
    full_ids = torch.nn.functional.pad(tokens.input_ids, (0, spare), value=tokenizer.pad_id)
    full_mask = torch.nn.functional.pad(tokens.attention_mask, (0, spare))
    short = tokenizer(CAPTIONS[:1])
    with torch.no_grad():
        expected = model.encode_text(full_ids, full_mask)
        for ids, mask, want in (
            (tokens.input_ids, tokens.attention_mask, expected),
            (short.input_ids, short.attention_mask, expected[:1]),
        ):
            torch.testing.assert_close(model.encode_text(ids, mask), want, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.encode_text(full_ids), expected, atol=1e-5, rtol=0)  # mask from the ids


@pytest.mark.parametrize("text", TEXT_TOWERS)
def test_different_captions_get_different_embeddings(text: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", text)
    for parameter in model.text_encoder.parameters():
        # Untrained BERTs are nearly constant: larger weights tell "nearly" from "exactly".
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    features = model.encode_text(["a red dog", "a red cat", "a green dog", "a red dog on the table"])
    distance = torch.cdist(features, features) + torch.eye(4)
    assert distance.min() > 1e-3


@pytest.mark.parametrize("text", ["open_clip_causal", "bag_of_words", "hf_bert_mean", "hf_clip", "hf_t5", "hf_siglip"])
def test_the_ends_of_long_captions_count_only_up_to_the_context(text: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, "open_clip_vit", text)
    long = "a red dog on the grass " * 10
    torch.testing.assert_close(*model.encode_text([long, long + "a green car"]))


def test_pooling_against_a_loop() -> None:
    hidden, mask = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    for row, length in enumerate((4, 2, 1)):
        real = hidden[row, :length]
        torch.testing.assert_close(pool_tokens(hidden, mask, "mean")[row], real.mean(dim=0))
        assert torch.equal(pool_tokens(hidden, mask, "eos")[row], real[-1])
        assert torch.equal(pool_tokens(hidden, mask, "cls")[row], real[0])


@pytest.mark.parametrize(
    ("image", "text"), [("timm_resnet", "open_clip_causal"), ("timm_vit", "hf_t5"), ("hf_vit", "hf_clip")]
)
def test_gradient_checkpointing_changes_no_gradient(image: str, text: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, image, text)
    tokens, gradients = tokenizer(CAPTIONS), []
    model.train()
    for switch in (False, True, False):
        torch.manual_seed(0)  # the same dropout each time; checkpointing has to repeat it too
        assert model.set_gradient_checkpointing(switch) == ["image", "text"]
        model.zero_grad()
        features = model(_images(len(CAPTIONS)), tokens.input_ids, tokens.attention_mask)
        (features.image * features.text.roll(1, 0)).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, checkpointed, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


def test_what_cannot_be_checkpointed_is_not_claimed(tokenizer: SentencePieceTokenizer) -> None:
    assert tiny_model(tokenizer, "open_clip_resnet").set_gradient_checkpointing() == ["text"]


@pytest.mark.parametrize("image", ["timm_vit", "hf_dinov2", "open_clip_vit"])
def test_image_size_is_the_one_asked_for(image: str, tokenizer: SentencePieceTokenizer) -> None:
    tower = {**IMAGE_TOWERS[image], "image_size": 48}
    model = tiny_model(tokenizer, tower)
    assert model.encode_image(torch.zeros(1, 3, 48, 48, dtype=torch.uint8)).shape == (1, 12)
    with pytest.raises(ModelError, match=r"images are \(1, 3, 32, 32\); the model takes \(n, 3, 48, 48\)"):
        model.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
