"""Patches alone in the last block: against attention masked to the diagonal, and in models that learnt two colours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_fakes import IMAGE_TOWERS, SIZE, tiny_model
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder, SentencePieceTokenizer
from mmcontrast.models.patch_features import patch_features

_OPEN_CLIP = IMAGE_TOWERS["open_clip_vit"]
_TIMM = IMAGE_TOWERS["timm_vit"]
TOWERS: dict[str, dict[str, Any]] = {
    "open_clip": _OPEN_CLIP,
    "open_clip_avg": {**_OPEN_CLIP, "kwargs": {**_OPEN_CLIP["kwargs"], "pool_type": "avg", "layers": 2}},
    "open_clip_own_head": {**_OPEN_CLIP, "projection": "none"},
    "open_clip_attentional": {
        **_OPEN_CLIP, "kwargs": {**_OPEN_CLIP["kwargs"], "attentional_pool": True, "attn_pooler_heads": 2},
    },
    "open_clip_timm": IMAGE_TOWERS["open_clip_timm"],
    "timm": _TIMM,
    "timm_avg": {**_TIMM, "kwargs": {**_TIMM["kwargs"], "global_pool": "avg"}},
    "timm_map": {**_TIMM, "kwargs": {**_TIMM["kwargs"], "global_pool": "map"}},
    "hf_clip": IMAGE_TOWERS["hf_clip"],
    "hf_siglip": IMAGE_TOWERS["hf_siglip"],
}  # fmt: skip


def noise(seed: int = 0, number: int = 2) -> Tensor:
    return torch.randint(256, (number, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("name", TOWERS)
def test_a_picture_is_read_in_its_places(name: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, TOWERS[name]).eval()
    pixels = noise()
    with torch.no_grad():
        found = patch_features(model, pixels)
        side = 2 if name == "open_clip_timm" else 4
        assert found.shape == (2, side, side, 12)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, side, side))
        torch.testing.assert_close(patch_features(model, pixels[1:])[0], found[1], atol=1e-5, rtol=0)
        assert (found[0, 0, 0] - found[0, 1, 1]).abs().max() > 1e-4


def test_alone_is_the_attention_masked_to_the_diagonal(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, TOWERS["open_clip_avg"]).eval()
    visual: Any = model.image_encoder.visual
    pixels = noise()
    with torch.no_grad():
        hidden = visual._embeds(model.preprocess.normalise(pixels))
        hidden = visual.transformer.resblocks[0](hidden)
        diagonal = torch.full((17, 17), -torch.inf).fill_diagonal_(0.0)
        hidden = visual.ln_post(visual.transformer.resblocks[1](hidden, attn_mask=diagonal))
        expected = torch.nn.functional.normalize(model.image_projection(hidden[:, 1:]), dim=-1)
        torch.testing.assert_close(patch_features(model, pixels), expected.view(2, 4, 4, 12), atol=1e-5, rtol=0)


def test_a_class_token_sees_itself_and_one_patch(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, TOWERS["open_clip"]).eval()
    visual: Any = model.image_encoder.visual
    pixels = noise()
    with torch.no_grad():
        hidden = visual._embeds(model.preprocess.normalise(pixels))
        mask = torch.full((17, 17), -torch.inf).fill_diagonal_(0.0)
        mask[0, 6] = 0.0
        read = visual.ln_post(visual.transformer.resblocks[0](hidden, attn_mask=mask)[:, 0])
        expected = torch.nn.functional.normalize(model.image_projection(read), dim=-1)
        torch.testing.assert_close(patch_features(model, pixels)[:, 1, 1], expected, atol=1e-5, rtol=0)


COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
TARGETS = torch.eye(12)[:4]


def grey(seed: int) -> Tensor:
    return noise(seed, 1)[0] // 4 + 96


def paint(picture: Tensor, colour: int, place: int) -> None:
    """One patch of 8 x 8 pixels."""
    row, column = divmod(place, 4)
    picture[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.tensor(COLOURS[colour])[:, None, None]


def taught(model: DualEncoder, steps: int = 100) -> DualEncoder:
    """Knows which colour a patch somewhere in the noise has; the fourth class has none."""
    generator = torch.Generator().manual_seed(1)
    image_side = [*model.image_encoder.parameters(), *model.image_projection.parameters()]
    optimiser = torch.optim.AdamW(image_side, lr=1e-2, weight_decay=0.0)
    labels = torch.arange(12) % 4
    for step in range(steps):
        pictures = noise(100 + step, 12) // 4 + 96
        for picture, label, place in zip(pictures, labels, torch.randint(16, (12,), generator=generator), strict=True):
            if label < 3:
                paint(picture, int(label), int(place))
        loss = torch.nn.functional.cross_entropy(20 * model.encode_image(pictures) @ TARGETS.T, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("name", ["open_clip", "timm_avg", "hf_clip", "hf_siglip"])
def test_the_patch_of_the_colour_lights_up(name: str, tokenizer: SentencePieceTokenizer) -> None:
    depth = {"timm_avg": {"depth": 1}, "open_clip": {}}.get(name, {"num_hidden_layers": 1})
    tower = {**TOWERS[name], "kwargs": {**TOWERS[name]["kwargs"], **depth}}
    model = taught(tiny_model(tokenizer, tower))
    right = 0
    for trial in range(8):
        places = torch.randperm(16, generator=torch.Generator().manual_seed(trial))[:3].tolist()
        picture = grey(trial)
        for colour, place in enumerate(places):
            paint(picture, colour, place)
        with torch.no_grad():
            maps = (patch_features(model, picture[None])[0] @ TARGETS.T).flatten(0, 1)  # (16, 4)
        right += sum(int(maps[:, colour].argmax()) == place for colour, place in enumerate(places))
    assert right >= 21  # of 24; guessing finds 1.5


@pytest.mark.parametrize("name", ["timm_resnet", "open_clip_resnet", "hf_resnet", "hf_vit"])
def test_towers_without_patches(name: str, tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, name).eval()
    with pytest.raises(
        ModelError, match=r"heat maps need an image tower of patches, .*; this one is a \w*(ResNet|ViT)"
    ):
        patch_features(model, noise())


def test_the_model_is_left_as_it_was(tokenizer: SentencePieceTokenizer) -> None:
    model = tiny_model(tokenizer, TOWERS["open_clip"])
    last: Any = model.image_encoder.visual.transformer.resblocks[-1]  # type: ignore[union-attr]
    patch_features(model, noise())
    assert not last._forward_pre_hooks
    assert model.training
