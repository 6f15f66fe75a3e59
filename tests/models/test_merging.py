"""Averages of weights, against the equation of the paper and arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, IMAGE_TOWERS, SIZE, TEXT_TOWERS
from torch import Tensor

from mmcontrast.errors import ModelError
from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
)
from mmcontrast.models.merging import check_mergeable, has_batch_norm, merge_models, merge_states, shares

NAMES = ["start", "tuned"]


@pytest.fixture
def make(tokenizer: SentencePieceTokenizer) -> Callable[..., DualEncoder]:
    def make(seed: int = 0, image: str = "timm_resnet", **changed: Any) -> DualEncoder:
        spec = ModelSpec(
            embed_dim=changed.pop("embed_dim", 16),
            image=ImageTowerSpec(image_size=SIZE, **{**IMAGE_TOWERS[image], **changed}),
            text=TextTowerSpec(context_length=24, **TEXT_TOWERS["open_clip_causal"]),
        )
        return build_dual_encoder(spec, tokenizer, seed=seed).eval()

    return make


def test_states_are_averaged_as_in_the_paper() -> None:
    one = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3)}
    two = {"w": torch.tensor([3.0, -2.0]), "steps": torch.tensor(9)}
    merged = merge_states([one, two], [0.75, 0.25])  # (1 - alpha) theta_0 + alpha theta_1, alpha = .25
    assert merged["w"].tolist() == [1.5, 1.0]
    assert merged["steps"].item() == 3  # a count is no weight: the first one's
    soup = merge_states([one, two, {"w": torch.tensor([2.0, 3.0]), "steps": torch.tensor(1)}], [0.25, 0.25, 0.5])
    assert soup["w"].tolist() == [2.0, 1.5]


def test_the_ends_are_the_models_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    one, two = ({"w": torch.randn(999, generator=generator)} for _ in range(2))
    assert torch.equal(merge_states([one, two], [1.0, 0.0])["w"], one["w"])
    assert torch.equal(merge_states([one, two], [0.0, 1.0])["w"], two["w"])
    two["w"][5] = float("nan")  # a state of weight 0 takes no part
    assert torch.equal(merge_states([one, two], [1.0, 0.0])["w"], one["w"])


def test_sums_are_made_in_double_precision_and_given_back_in_the_type_of_the_weights() -> None:
    states = [{"w": torch.full((1,), value, dtype=torch.float16)} for value in (1.0, 0.0005, 0.0005, 0.0005)]
    merged = merge_states(states, [0.25] * 4)
    assert merged["w"].dtype == torch.float16
    assert merged["w"].item() == torch.tensor(1.0015 / 4, dtype=torch.float16).item()


@pytest.mark.parametrize(
    ("second", "weights", "message"),
    [
        ({"w": torch.ones(2)}, [0.5, 0.6], r"weights 0.5, 0.6 must lie in \[0, 1\] and add up to 1"),
        ({"w": torch.ones(2)}, [1.5, -0.5], r"must lie in \[0, 1\]"),
        ({"w": torch.ones(2)}, [float("nan"), 1.0], r"must lie in \[0, 1\]"),
        ({"w": torch.ones(2)}, [1.0], "1 weights for 2 models"),
        ({"w": torch.ones(3)}, [0.5, 0.5], r"w is \(2,\) in the first and \(3,\) in the 2."),
        ({"w": torch.ones(2), "v": torch.ones(1)}, [0.5, 0.5], "only the 2. has v"),
        ({}, [0.5, 0.5], "only the first has w"),
    ],
)
def test_states_that_cannot_be_averaged(second: dict[str, Tensor], weights: list[float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        merge_states([{"w": torch.ones(2)}, second], weights)


def test_shares() -> None:
    assert shares([1, 1, 2]) == [0.25, 0.25, 0.5]
    for wrong in ([0.0, 0.0], [1.0, -1.0], [float("nan"), 1.0]):
        with pytest.raises(ModelError, match="none may be negative, and one must count"):
            shares(wrong)


def test_a_merged_model_lies_between_the_two(make: Callable[..., DualEncoder]) -> None:
    models = [make(seed) for seed in (0, 1)]
    models[0].templates, models[0].extra["note"] = ["a {c}"], "kept"
    before = [model.encode_text(CAPTIONS) for model in models]
    merged = merge_models(models, [0.75, 0.25], NAMES)
    for name, value in merged.state_dict().items():
        one, two = (model.state_dict()[name] for model in models)
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * one + 0.25 * two)
        else:
            assert torch.equal(value, one)
    assert has_batch_norm(merged)
    assert merged.templates == ["a {c}"]
    assert merged.extra["note"] == "kept"
    assert merged.extra["merged_from"] == [{"model": "start", "weight": 0.75}, {"model": "tuned", "weight": 0.25}]
    for model, features in zip(models, before, strict=True):  # they are not changed
        assert torch.equal(model.encode_text(CAPTIONS), features)
    assert torch.equal(merge_models(models, [0, 1], NAMES).encode_text(CAPTIONS), before[1])


def test_what_only_training_knows_may_differ(make: Callable[..., DualEncoder]) -> None:
    check_mergeable([make(), make(1, locked=True, dropout=0.2)], NAMES)
    vit = "open_clip_vit"
    check_mergeable([make(image=vit), make(1, vit, patch_dropout=0.5)], NAMES)
    assert not has_batch_norm(make(image=vit))


def test_models_that_are_not_alike(make: Callable[..., DualEncoder], vocabulary: bytes) -> None:
    def refused(other: DualEncoder, message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            merge_models([make(), other], [0.5, 0.5], NAMES)
        assert "\n" not in str(caught.value)

    refused(make(embed_dim=8), "start and tuned cannot be merged: model.embed_dim is 16 in the first and 8 in the sec")
    refused(make(image="open_clip_vit"), "model.image.library is 'timm' in the first and 'open_clip' in the second")
    deeper = {**IMAGE_TOWERS["timm_resnet"]["kwargs"], "layers": [1, 1, 1, 2]}
    refused(make(kwargs=deeper), r"model.image.kwargs.layers is \[1, 1, 1, 1\] in the first")
    other = make()
    other.preprocess = replace(other.preprocess, resize="squash")
    refused(other, "preprocess.resize is 'shortest' in the first and 'squash' in the second")
    other = make()
    other.tokenizer = SentencePieceTokenizer(vocabulary, 20)
    refused(other, "their tokenizers differ, so that the same rows of weights mean other words")
    with pytest.raises(ModelError, match="two models at least"):
        merge_models([make()], [1.0], NAMES[:1])
