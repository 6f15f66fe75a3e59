"""Adapters on towers of every library: they learn, nothing else of the tower does, and they merge away."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_fakes import CAPTIONS, IMAGE_TOWERS, SIZE, TEXT_TOWERS, tiny_spec
from PIL import Image
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models import DualEncoder, LoraSpec, ModelSpec, SentencePieceTokenizer, build_dual_encoder
from mmcontrast.models.lora import add_adapters, has_adapters, without_adapters
from mmcontrast.models.split_attention import SplitAttention

pytest.importorskip("peft")
LORA = LoraSpec(rank=2)
HAVE_LINEAR_LAYERS = [
    name
    for name in IMAGE_TOWERS
    if "resnet" not in name  # convolutions only, but for the pooling of open_clip's, which calls none of its layers
]


def spec(
    image_tower: str = "open_clip_vit",
    text_tower: str = "open_clip_causal",
    *,
    image: LoraSpec | None = None,
    text: LoraSpec | None = None,
) -> ModelSpec:
    plain = tiny_spec(image_tower, text_tower)
    return replace(
        plain,
        image=replace(plain.image, lora=image),
        text=replace(plain.text, lora=text),
    )


def encode(model: DualEncoder, pictures: list[Image.Image]) -> tuple[Tensor, Tensor]:
    return model.encode_image(pictures), model.encode_text(CAPTIONS)


def train_step(model: DualEncoder, tokenizer: SentencePieceTokenizer, steps: int = 2) -> None:
    """Some steps of gradient descent on everything that may learn."""
    images = torch.randint(256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = tokenizer(CAPTIONS[:4])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    for _ in range(steps):
        features = model(images, tokens.input_ids, tokens.attention_mask)
        loss = -(features.image @ features.text.T).log_softmax(dim=1).diagonal().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and "logit" not in n]
        assert missing == []
        optimizer.step()
        optimizer.zero_grad()


def weights(model: DualEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("image", "text"),
    [(image, "open_clip_causal") for image in HAVE_LINEAR_LAYERS]
    + [("open_clip_vit", text) for text in TEXT_TOWERS if text not in ("bag_of_words", "open_clip_causal")],
)
def test_adapters_learn_and_merge_away(
    image: str, text: str, tokenizer: SentencePieceTokenizer, pictures: list[Image.Image]
) -> None:
    plain = build_dual_encoder(spec(image, text), tokenizer, seed=3).eval()
    model = build_dual_encoder(spec(image, text, image=LORA, text=LORA), tokenizer, seed=3).eval()
    start = encode(plain, pictures)
    for ours, theirs in zip(encode(model, pictures), start, strict=True):  # B is 0 at first
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    before = weights(model)
    train_step(model, tokenizer)
    model.eval()
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "logit" not in name}
    assert {name for name in trained if "encoder" in name} == {name for name in before if ".lora_" in name}
    assert changed - {"logit_scale"} <= trained
    # Some A's of queries and keys get gradients that are nothing beside their size.
    assert {name for name in trained if ".lora_A." not in name} <= changed
    tuned = encode(model, pictures)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(tuned, start, strict=True))
    merged = without_adapters(model)
    assert not has_adapters(merged)
    assert merged.spec == replace(plain.spec)
    assert weights(merged).keys() == weights(plain).keys()
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    for ours, theirs in zip(encode(merged, pictures), tuned, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for ours, theirs in zip(encode(model, pictures), tuned, strict=True):  # which is left as it was
        assert torch.equal(ours, theirs)


def test_a_saved_model_is_an_ordinary_one(
    tokenizer: SentencePieceTokenizer, pictures: list[Image.Image], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_dual_encoder(spec(image=LORA, text=LORA), tokenizer, seed=3)
    train_step(model, tokenizer)
    model.eval().save_pretrained(tmp_path)
    assert "lora" not in (tmp_path / "config.json").read_text()
    monkeypatch.setitem(sys.modules, "peft", None)  # whoever loads it does not need it
    loaded = DualEncoder.from_pretrained(tmp_path)
    for ours, theirs in zip(encode(loaded, pictures), encode(model, pictures), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_split_attention_is_torchs(batch_first: bool, causal: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(3, 7, 16)
    masks: list[Tensor | None] = [None]
    if causal:
        full = torch.full((7, 7), float("-inf")).triu(1)
        masks = [full, full.isinf(), full.expand(12, 7, 7)]
    given = x if batch_first else x.transpose(0, 1)
    for mask in masks:
        expected = attention(given, given, given, need_weights=False, attn_mask=mask)[0]
        split = SplitAttention(copy.deepcopy(attention))
        torch.testing.assert_close(split(given, given, given, attn_mask=mask)[0], expected, atol=1e-6, rtol=1e-5)
        joined = split.joined()
        assert joined.state_dict().keys() == attention.state_dict().keys()
        assert torch.equal(joined(given, given, given, need_weights=False, attn_mask=mask)[0], expected)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["mlp.c_fc"], {"mlp.c_fc"}),
        (["attn"], {"attn.in_proj", "attn.out_proj"}),
        (["attn.out_proj", "c_proj"], {"attn.out_proj", "mlp.c_proj"}),
        (["resblocks"], {"attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"}),
        (None, {"attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"}),
    ],
)
def test_targets(tokenizer: SentencePieceTokenizer, targets: list[str] | None, expected: set[str]) -> None:
    lora = LoraSpec(rank=3, targets=None if targets is None else tuple(targets))
    model = build_dual_encoder(spec(text=lora), tokenizer, seed=0)
    names = {name.partition(".lora_A")[0] for name, _ in model.text_encoder.named_parameters() if ".lora_A." in name}
    assert {".".join(name.split(".")[-2:]) for name in names} == expected
    assert all(value.shape[0] == 3 for name, value in model.named_parameters() if ".lora_A." in name)
    assert not [name for name, _ in model.image_encoder.named_parameters() if "lora" in name]


@pytest.mark.parametrize(
    ("lora", "tower", "message"),
    [
        ({"targets": ("atn",)}, "open_clip_vit", r"no module is called 'atn'; linear layers here: .*attn.out_proj"),
        ({"targets": ("ln_1",)}, "open_clip_vit", r"ln_1 \(LayerNorm\) has no linear layer that the tower calls"),
        ({"targets": ("conv1",)}, "open_clip_vit", r"visual.conv1 \(Conv2d\) has no linear layer"),
        # SigLIP's pooling is torch's attention, from a learnt query to the patches: its out_proj is never called.
        ({"targets": ("head.attention.out_proj",)}, "hf_siglip", "has no linear layer that the tower calls"),
        ({}, "open_clip_resnet", "this tower has no linear layers for adapters"),
        ({}, "timm_resnet", "this tower has no linear layers for adapters"),
    ],
)
def test_targets_that_would_do_nothing(
    tokenizer: SentencePieceTokenizer, lora: dict[str, Any], tower: str, message: str
) -> None:
    with pytest.raises(ModelError, match=f"^model.image.lora.*{message}") as caught:
        build_dual_encoder(spec(tower, image=LoraSpec(**lora)), tokenizer, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "lora.rank is 0; it must be at least 1"),
        ({"alpha": 0.0}, "lora.alpha is 0.0; it must be positive"),
        ({"dropout": 1.0}, r"lora.dropout is 1.0; it must be in \[0, 1\)"),
        ({"targets": ()}, "lora.targets is empty"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LoraSpec(**values)


def test_locked_and_lora_contradict_each_other() -> None:
    with pytest.raises(ModelError, match=r"model.text.locked: lora freezes the tower's own weights already"):
        replace(tiny_spec().text, lora=LORA, locked=True)


def test_a_description_survives_json() -> None:
    described = spec(image=LoraSpec(4, 3.0, 0.1, ("attn",)))
    assert ModelSpec.from_dict(described.to_dict()) == described
    assert "lora" not in described.to_dict()["text"]
    with pytest.raises(ModelError, match=r"model.image.lora has unknown keys ranks"):
        ModelSpec.from_dict({**described.to_dict(), "image": {"library": "timm", "lora": {"ranks": 1}}})


def test_a_missing_peft_is_one_line(tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"^model.text.lora needs peft: pip install 'mmcontrast\[peft\]'$"):
        build_dual_encoder(spec(text=LORA), tokenizer, seed=0)


def test_a_layer_that_is_read_but_not_run_gets_no_adapter(
    tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The safety net behind the look at what is called: no adapter without a gradient."""
    monkeypatch.setattr(SplitAttention, "fits", staticmethod(lambda module: False))
    monkeypatch.setattr(
        "mmcontrast.models.lora._matching", lambda tower, usable, *_: ["text.transformer.resblocks.0.attn.out_proj"]
    )
    with pytest.raises(ModelError, match=r"the adapter on .*attn.out_proj gets no gradient; name other targets"):
        build_dual_encoder(spec(text=LoraSpec(targets=("x",))), tokenizer, seed=0)


def test_batch_norm_of_a_tower_with_adapters_stays(tokenizer: SentencePieceTokenizer) -> None:
    model = build_dual_encoder(spec(), tokenizer, seed=0)
    model.image_encoder.add_module("norm", nn.BatchNorm1d(4))
    model.spec = replace(model.spec, image=replace(model.spec.image, lora=LORA))
    add_adapters(model, seed=0)
    model.train()
    norm = model.image_encoder.get_submodule("norm")
    assert not norm.training
    assert model.image_encoder.training


def test_gradient_checkpointing_gives_the_same_gradients(tokenizer: SentencePieceTokenizer) -> None:
    for image, text in (("timm_vit", "hf_bert_mean"), ("hf_vit", "open_clip_causal"), ("open_clip_vit", "hf_clip")):
        trained = []
        for checkpointing in (False, True):
            model = build_dual_encoder(spec(image, text, image=LORA, text=LORA), tokenizer, seed=3)
            assert model.set_gradient_checkpointing(checkpointing) == ["image", "text"]
            torch.manual_seed(5)  # of dropout
            train_step(model, tokenizer)
            trained.append(weights(model))
        for name, value in trained[0].items():
            torch.testing.assert_close(trained[1][name], value, atol=1e-5, rtol=1e-4)
