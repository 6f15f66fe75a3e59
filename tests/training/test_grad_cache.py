"""Chunks through the towers give the gradient of one big batch, with the same noise in both passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional as F

from mmcontrast.errors import TrainingError
from mmcontrast.models import (
    DualEncoder,
    ImageTowerSpec,
    ModelSpec,
    SentencePieceTokenizer,
    TextTowerSpec,
    build_dual_encoder,
    train_sentencepiece,
)
from mmcontrast.training.grad_cache import GradCache, batch_norm_warning
from mmcontrast.training.objective import ContrastiveObjective, LossName, ObjectiveOutput
from mmcontrast.types import Features, PairBatch

PAIRS = 13
VIT: dict[str, Any] = {"library": "open_clip", "kwargs": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8}}
NOISY_VIT = {**VIT, "dropout": 0.3, "kwargs": {**VIT["kwargs"], "patch_dropout": 0.5}}
RESNET = {"library": "timm", "name": "resnet10t", "kwargs": {"channels": [8, 8, 16, 16], "stem_width": 8}}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"library": "open_clip", "kwargs": {"width": 16, "heads": 2, "layers": 2}}
NOISY_TEXT = {"library": "transformers", "kwargs": {"model_type": "bert", **BERT}, "dropout": 0.2}


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    corpus = [f"a {size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "blue") for thing in "xy"]
    return SentencePieceTokenizer(train_sentencepiece(corpus * 4, 300), 12)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state()
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state()


Build = Callable[..., DualEncoder]


@pytest.fixture
def build(tokenizer: SentencePieceTokenizer) -> Build:
    def build(image: dict[str, Any] = VIT, text: dict[str, Any] = TEXT, **values: Any) -> DualEncoder:
        spec = ModelSpec(
            **{"embed_dim": 12, **values},
            image=ImageTowerSpec(**{"image_size": 32, **image}),
            text=TextTowerSpec(**{"context_length": 12, **text}),
        )
        return build_dual_encoder(spec, tokenizer, seed=0)

    return build


def make_batch(pairs: int = PAIRS) -> PairBatch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (pairs, 3, 32, 32), generator=generator, dtype=torch.uint8)
    ids = torch.randint(5, 270, (pairs, 9), generator=generator)
    mask = (torch.arange(9) < torch.randint(2, 10, (pairs, 1), generator=generator)).long()
    key, nothing = torch.arange(pairs) + 1, torch.zeros(pairs, dtype=torch.long)
    key[-1] = key[0]  # a known positive in the first and in the last chunk
    return PairBatch(image, ids, mask, torch.arange(pairs), key, key[:, None], nothing, nothing)


def loss_of(batch: PairBatch, loss: LossName = "info_nce") -> Callable[[Features], ObjectiveOutput]:
    return lambda features: ContrastiveObjective(loss)(features, batch)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain(model: DualEncoder, batch: PairBatch, loss: LossName = "info_nce") -> tuple[float, dict[str, Tensor]]:
    """One forward and one backward of the whole batch."""
    model.zero_grad()
    output = loss_of(batch, loss)(model(batch.image, batch.input_ids, batch.attention_mask))
    output.loss.backward()
    return output.loss.item(), gradients(model)


def in_chunks(model: DualEncoder, batch: PairBatch, micro: int) -> dict[str, Tensor]:
    """The literal thing: all chunks' graphs are kept and the loss's backward goes through all of them."""
    model.zero_grad()
    count = -(-len(batch) // micro)
    tensors = (batch.image, batch.input_ids, batch.attention_mask)
    parts = [model(*inputs) for inputs in zip(*(x.tensor_split(count) for x in tensors), strict=True)]
    image, text = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "text"))
    loss_of(batch)(Features(image, text, parts[0].logit_scale, parts[0].logit_bias)).loss.backward()
    return gradients(model)


def cached(
    accelerator: Accelerator, model: DualEncoder, batch: PairBatch, micro: int, loss: LossName = "info_nce"
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    output = GradCache(model, accelerator, micro).backward(batch, loss_of(batch, loss))
    return output.loss.item(), gradients(model)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        # Of the largest entry: sums in another order round differently where terms cancel.
        allowed = tolerance * max(1e-2, expected[name].abs().max().item())
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=allowed, msg=name)


@pytest.mark.parametrize("micro", [1, 2, 5, 6, 12])  # 13 pairs: no chunk size divides them
@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_gradients_are_those_of_one_big_batch(
    build: Build, accelerator: Accelerator, micro: int, loss: LossName
) -> None:
    model, batch = build(logit_bias=-3.0 if loss == "sigmoid" else None), make_batch()
    expected_loss, expected = plain(model, batch, loss)
    actual_loss, actual = cached(accelerator, model, batch, micro, loss)
    assert actual_loss == pytest.approx(expected_loss, rel=1e-5)
    assert expected["logit_scale"].abs() > 1e-4
    assert_close(actual, expected)


@pytest.mark.parametrize("micro", [PAIRS, 100])
def test_a_batch_that_fits_is_the_plain_step_bit_for_bit(build: Build, accelerator: Accelerator, micro: int) -> None:
    model, batch = build(NOISY_VIT, NOISY_TEXT), make_batch()
    torch.manual_seed(5)
    expected_loss, expected = plain(model, batch)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    actual_loss, actual = cached(accelerator, model, batch, micro)
    assert actual_loss == expected_loss
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_both_passes_draw_the_same_noise(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(NOISY_VIT, NOISY_TEXT), make_batch()
    torch.manual_seed(5)
    expected, state = in_chunks(model, batch, 4), torch.get_rng_state()
    seen: list[Features] = []
    handle = model.register_forward_hook(lambda _, __, output: seen.append(output))
    torch.manual_seed(5)
    _, actual = cached(accelerator, model, batch, 4)
    handle.remove()
    assert [len(features.image) for features in seen] == [4, 3, 3, 3, 4, 3, 3]  # the last chunk's graph is kept
    for first, again in zip(seen[:3], seen[4:], strict=True):
        assert torch.equal(first.image, again.image)
        assert torch.equal(first.text, again.text)
    assert_close(actual, expected, 1e-6)
    assert not torch.equal(seen[0].image, model(batch.image[:4], batch.input_ids[:4], batch.attention_mask[:4]).image)
    torch.manual_seed(5)
    cached(accelerator, model, batch, 4)
    assert torch.equal(torch.get_rng_state(), state)  # the next step's noise is new


def test_what_the_loss_draws_is_not_drawn_again(build: Build, accelerator: Accelerator) -> None:
    """The random state goes on behind the loss, not behind the second pass."""
    model, batch = build(NOISY_VIT, NOISY_TEXT), make_batch()
    drawn: list[Tensor] = []

    def drawing(features: Features) -> ObjectiveOutput:
        drawn.append(torch.rand(3))
        return loss_of(batch)(features)

    torch.manual_seed(5)
    GradCache(model, accelerator, 4).backward(batch, drawing)
    drawn.append(torch.rand(3))
    torch.manual_seed(5)
    in_chunks(model, batch, 4)
    assert torch.equal(torch.stack(drawn), torch.rand(2, 3))


def test_batch_norm_moves_once_and_normalises_alike(build: Build, accelerator: Accelerator) -> None:
    ours, theirs, batch = build(RESNET), build(RESNET), make_batch()
    expected = in_chunks(theirs, batch, 5)
    _, actual = cached(accelerator, ours, batch, 5)
    assert_close(actual, expected)
    counts = [value for name, value in ours.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(count == 3 for count in counts)
    for name, value in theirs.named_buffers():
        assert torch.equal(value, ours.get_buffer(name)), name
    assert {m.momentum for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_batch_norm_is_spoken_of_where_it_matters(build: Build) -> None:
    warning = batch_norm_warning(build(RESNET), 5, 13)
    assert warning is not None
    assert "15 layers of BatchNorm2d take their statistics from 5 pairs at a time instead of 13" in warning
    assert batch_norm_warning(build(RESNET), 13, 13) is None
    assert batch_norm_warning(build({**RESNET, "locked": True}), 5, 13) is None
    assert batch_norm_warning(build(VIT), 5, 13) is None


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ({**RESNET, "locked": True}, TEXT),
        (VIT, {**NOISY_TEXT, "locked": True}),
        ({**VIT, "locked": True}, {**TEXT, "locked": True}),
        ({**VIT, "locked": True, "projection": "none", "kwargs": {**VIT["kwargs"], "width": 24}}, TEXT),
    ],
)
def test_locked_towers_are_computed_once(
    build: Build, accelerator: Accelerator, image: dict[str, Any], text: dict[str, Any]
) -> None:
    text = {**text, "dropout": 0.0}
    model, batch = build(image, text, embed_dim=24 if image.get("projection") == "none" else 12), make_batch()
    children, calls = dict(model.named_children()), {"image_encoder": 0, "text_encoder": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name in calls:
        children[name].register_forward_hook(count(name))
    _, actual = cached(accelerator, model, batch, 5)
    assert calls["image_encoder"] == (3 if image.get("locked") else 5)
    assert calls["text_encoder"] == (3 if text.get("locked") else 5)
    assert dict(model.named_children()) == children
    assert list(dict(model.named_children())) == list(children)
    assert_close(actual, plain(model, batch)[1])


def test_gradient_checkpointing_goes_along(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(NOISY_VIT, NOISY_TEXT), make_batch()
    torch.manual_seed(5)
    _, expected = cached(accelerator, model, batch, 4)
    assert model.set_gradient_checkpointing() == ["image", "text"]
    torch.manual_seed(5)
    _, actual = cached(accelerator, model, batch, 4)
    assert_close(actual, expected)


def test_checkpointed_batch_norm_moves_once(build: Build, accelerator: Accelerator) -> None:
    """Recomputing activations for the backward passes of either pass must not move the statistics, either."""
    ours, theirs, batch = build(RESNET), build(RESNET), make_batch()
    in_chunks(theirs, batch, 5)
    assert "image" in ours.set_gradient_checkpointing()
    cached(accelerator, ours, batch, 5)
    assert all(torch.equal(value, ours.get_buffer(name)) for name, value in theirs.named_buffers())


def test_a_gradient_scaler_scales_once(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(), make_batch()
    _, expected = plain(model, batch)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _, actual = cached(accelerator, model, batch, 4)
    assert_close({name: gradient / 1024 for name, gradient in actual.items()}, expected)


def test_half_precision_repeats_itself(build: Build) -> None:
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model, batch = build(NOISY_VIT, NOISY_TEXT), make_batch()
    prepared = accelerator.prepare(model)
    torch.manual_seed(5)
    expected = in_chunks(prepared, batch, 4)
    seen: list[Features] = []
    prepared.register_forward_hook(lambda _, __, output: seen.append(output))
    torch.manual_seed(5)
    _, actual = cached(accelerator, prepared, batch, 4)
    AcceleratorState._reset_state()
    assert all(torch.equal(a.image, b.image) for a, b in zip(seen[:3], seen[4:], strict=True))
    blocks = "image_encoder.visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert actual[blocks].norm() > 0  # a cast that was cached without gradient would cut the graph
    for name, gradient in expected.items():
        assert F.cosine_similarity(actual[name].flatten(), gradient.flatten(), dim=0) > 0.99, name


class Unsteady(nn.Module):
    """Draws from Python's random numbers, which nobody puts back."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) * torch.tensor([random.choice([0.1, 1.0, 10.0]) for _ in range(12)])


def test_a_model_that_does_not_repeat_itself_is_refused(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(), make_batch()
    model.text_projection = Unsteady(model.text_projection)
    with pytest.raises(TrainingError, match=r"micro_batch_size: text features of the second pass differ by .* null"):
        cached(accelerator, model, batch, 4)


def test_a_non_finite_batch_is_left_to_the_trainer(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(), make_batch()
    nn.init.constant_(model.text_projection.linear.weight, float("nan"))
    loss, _ = cached(accelerator, model, batch, 4)
    assert loss != loss


class Kept:
    """Counts the bytes that graphs hold for their backward pass."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Kept.Saved:
        return Kept.Saved(self, tensor)

    class Saved:
        def __init__(self, owner: Kept, tensor: Tensor) -> None:
            self.owner, self.tensor = owner, tensor
            owner.now += tensor.nbytes
            owner.most = max(owner.most, owner.now)

        def __del__(self) -> None:
            self.owner.now -= self.tensor.nbytes


def test_graphs_are_those_of_one_chunk(build: Build, accelerator: Accelerator) -> None:
    model, batch = build(), make_batch(64)
    most = []
    for run in (lambda: plain(model, batch), lambda: cached(accelerator, model, batch, 8)):
        kept = Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda saved: saved.tensor):
            run()
        assert kept.now < 100  # all but a few scalars are gone after the step
        most.append(kept.most)
    assert most[1] < most[0] / 5, most


def test_pictures_may_stay_with_the_host() -> None:
    moved = make_batch().to("meta", images=False)
    assert moved.image.device.type == "cpu"
    assert {moved.input_ids.device.type, moved.index.device.type, moved.caption_keys.device.type} == {"meta"}
    assert make_batch().to("meta").image.device.type == "meta"
