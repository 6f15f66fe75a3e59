"""Patches left out in training: as many as asked for, the class token never, none in evaluation, again by seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, IMAGE_TOWERS, SIZE, tiny_model, tiny_spec
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder, SentencePieceTokenizer

SIGLIP = {"library": "timm", "name": "vit_base_patch16_siglip_224"}  # no class token, pooled by attention
SMALL = {"depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
TOWERS: dict[str, tuple[dict[str, Any], int]] = {
    "timm_vit": (IMAGE_TOWERS["timm_vit"], 1),
    "timm_siglip": ({**SIGLIP, "kwargs": SMALL}, 0),
    "timm_eva": ({"library": "timm", "name": "eva02_tiny_patch14_224", "kwargs": SMALL}, 1),
    "open_clip_vit": (IMAGE_TOWERS["open_clip_vit"], 1),
    "open_clip_timm": (IMAGE_TOWERS["open_clip_timm"], 1),
}
"""Image towers, and how many of their tokens are no patches."""


def model_of(tokenizer: SentencePieceTokenizer, tower: str, share: float) -> DualEncoder:
    return tiny_model(tokenizer, {**TOWERS[tower][0], "patch_dropout": share}, "bag_of_words")


def pictures(n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def tokens_seen(model: DualEncoder) -> int:
    """Tokens that the first block of the tower gets."""
    seen: list[int] = []
    blocks = [m for m in model.image_encoder.modules() if type(m).__name__ in ("ResidualAttentionBlock", "Block")]
    blocks += [m for m in model.image_encoder.modules() if type(m).__name__ == "EvaBlock"]
    first: nn.Module = blocks[0]
    with first.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1])):
        model.encode_image(pictures())
    return seen[0]


@pytest.mark.parametrize("tower", TOWERS)
def test_training_leaves_out_the_share_and_evaluation_nothing(tower: str, tokenizer: SentencePieceTokenizer) -> None:
    plain, dropping = (model_of(tokenizer, tower, share) for share in (0.0, 0.75))
    others = TOWERS[tower][1]
    patches = tokens_seen(plain) - others
    assert patches >= 4
    assert tokens_seen(dropping.train()) == patches // 4 + others
    assert tokens_seen(dropping.eval()) == patches + others
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    dropping.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(dropping.encode_image(pictures()), plain.eval().encode_image(pictures()))


@pytest.mark.parametrize("tower", TOWERS)
def test_what_is_left_out_is_drawn_anew_and_repeats_with_the_seed(
    tower: str, tokenizer: SentencePieceTokenizer
) -> None:
    model = model_of(tokenizer, tower, 0.5).train()
    first, again, other = ((torch.manual_seed(s), model.encode_image(pictures()))[1] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    same = pictures(1).expand(2, -1, -1, -1)
    one, two = model.encode_image(same)
    assert not torch.allclose(one, two)  # pictures lose patches of their own


def test_every_weight_still_learns(tokenizer: SentencePieceTokenizer) -> None:
    model = model_of(tokenizer, "open_clip_vit", 0.9).train()
    tokens = tokenizer(CAPTIONS)
    features = model(pictures(len(CAPTIONS)), tokens.input_ids, tokens.attention_mask)
    (features.image * features.text).sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == [
        "logit_scale"  # not part of this sum
    ]


def test_the_saved_description_keeps_it(tokenizer: SentencePieceTokenizer) -> None:
    model = model_of(tokenizer, "timm_vit", 0.5)
    assert model.spec.image.patch_dropout == 0.5
    assert type(model.spec).from_dict(model.spec.to_dict()) == model.spec


@pytest.mark.parametrize("tower", ["timm_resnet", "open_clip_resnet", "hf_clip"])
def test_towers_that_cannot_say_so(tower: str, tokenizer: SentencePieceTokenizer) -> None:
    with pytest.raises(ModelError, match=r"model\.image\.patch_dropout: .* cannot leave out patches; take a vision"):
        tiny_model(tokenizer, {**IMAGE_TOWERS[tower], "patch_dropout": 0.5})


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.image\.patch_dropout is 1\.0; it must be in \[0, 1\)"):
        tiny_spec({**IMAGE_TOWERS["timm_vit"], "patch_dropout": 1.0})
