"""The gradient of a batch that is too big for the device, exactly, by taking its pairs through the towers twice.

The loss compares all pairs with each other, so a batch cannot be cut into smaller ones. But the loss sees the towers'
features only, and these are small: first all features without graphs, then the loss's gradient to them, then each
chunk of pairs once more, with a graph that passes its rows of that gradient on (GradCache, Gao et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcontrast.errors import TrainingError
from mmcontrast.training.objective import ObjectiveOutput
from mmcontrast.types import Features, PairBatch

FARTHEST = 0.05
"""Allowed distance of a feature, of length 1, from its first pass: more than half precision ever rounds."""


def number_of_chunks(pairs: int, micro_batch_size: int) -> int:
    """How many chunks of nearly equal size, none above `micro_batch_size`, it takes."""
    return -(-pairs // micro_batch_size)


class GradCache:
    """Takes at most `micro_batch_size` pairs through the towers at a time; the loss sees all of them at once.

    Both passes draw the same dropout: torch's random state is put back before a chunk's second pass. Chunks are of
    nearly equal size. The last one keeps the graph of its first pass, and a frozen tower its outputs: neither is
    computed again. A batch that is one chunk is trained on as if there was no cache, bit for bit.

    Batch norm takes its statistics from a chunk, the same in both passes; see `batch_norm_warning`.

    Args:
        model: as `accelerator.prepare` returned it.
        micro_batch_size: pairs of this rank that go through the towers at a time, 1 at least.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, micro_batch_size: int) -> None:
        self.model = model
        self.accelerator = accelerator
        self.micro_batch_size = micro_batch_size
        self._replay_is_checked = False

    def backward(self, batch: PairBatch, objective: Callable[[Features], ObjectiveOutput]) -> ObjectiveOutput:
        """Add the gradient of a batch's loss to the parameters' gradients, averaged over ranks as DDP does.

        Args:
            batch: this rank's pairs; the pictures may lie in the host's memory, they go to the device in chunks.
            objective: features of the whole batch to loss.

        Raises:
            TrainingError: the model does not repeat itself, so that the gradient would be wrong.
        """
        count = number_of_chunks(len(batch), self.micro_batch_size)
        if count == 1:
            (inputs,) = self._chunks(batch, 1)
            output = objective(self.model(*inputs))
            self.accelerator.backward(output.loss)
            return output
        bare = self.accelerator.unwrap_model(self.model)
        frozen = {name: _Remembered(part) for name, part in bare.named_children() if _is_frozen(part)}
        states, features = [], []
        with _in_place(bare, frozen):
            for number, inputs in enumerate(self._chunks(batch, count)):
                states.append(self._random_state())
                # Of the model without DDP, which would get ready to reduce gradients in the next backward.
                with torch.no_grad() if number < count - 1 else nullcontext():
                    features.append(bare(*inputs))
        leaves = _leaves(features)
        output = objective(leaves)
        self.accelerator.backward(output.loss)  # a gradient scaler multiplies here, and nowhere below
        state = self._random_state()
        with _in_place(bare, frozen), _statistics_kept(bare):
            for part in frozen.values():
                part.replays = True
            self._second_pass(batch, features, leaves, states)
        self._set_random_state(state)
        return output

    def _second_pass(self, batch: PairBatch, features: list[Features], leaves: Features, states: list[Any]) -> None:
        """From the gradient of the leaves to that of the parameters."""
        count = len(features)
        rows = list(zip(_split(leaves.image.grad, count), _split(leaves.text.grad, count), strict=True))
        kept = features.pop()
        # First of all, so that its graph is gone before there is another one.
        _pass_on((kept.image, rows[-1][0]), (kept.text, rows[-1][1]))
        del kept
        for number, (first, inputs) in enumerate(zip(features, self._chunks(batch, count), strict=False)):
            self._set_random_state(states[number])
            if number < count - 2:
                with self.accelerator.no_sync(self.model):
                    again = self.model(*inputs)
                    _pass_on((again.image, rows[number][0]), (again.text, rows[number][1]))
            else:  # in this backward DDP reduces the gradients, and waits for each parameter: the scale's, too
                again = self.model(*inputs)
                _pass_on(
                    (again.image, rows[number][0]),
                    (again.text, rows[number][1]),
                    (again.logit_scale, leaves.logit_scale.grad),
                    (again.logit_bias, None if leaves.logit_bias is None else leaves.logit_bias.grad),
                )
            if not self._replay_is_checked:
                _check_replay(first, again)
        self._replay_is_checked = True

    def _chunks(self, batch: PairBatch, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        device = self.accelerator.device
        tensors = (batch.image, batch.input_ids, batch.attention_mask)
        for parts in zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True):
            image, ids, mask = (part.to(device, non_blocking=True) for part in parts)
            yield image, ids, mask

    def _random_state(self) -> tuple[Tensor, Tensor | None]:
        device = self.accelerator.device
        own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
        return torch.get_rng_state(), own

    def _set_random_state(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.get_device_module(self.accelerator.device).set_rng_state(state[1])


def batch_norm_warning(model: nn.Module, micro_batch_size: int, pairs: int) -> str | None:
    """What to say of batch norm that will see chunks instead of this rank's `pairs`; None without such layers.

    Its mean and variance over the whole batch would need all activations at once, which is what the chunks avoid.

    Raises:
        TrainingError: a chunk would be a single pair, of which there are no statistics.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    if micro_batch_size >= pairs or not layers:
        return None
    kinds = f"{len(layers)} layers of " + " and ".join(sorted({type(layer).__name__ for layer in layers}))
    if pairs // number_of_chunks(pairs, micro_batch_size) == 1:
        raise TrainingError(
            f"training.micro_batch_size: {micro_batch_size} leaves the {kinds} a chunk of one pair, which has no "
            "statistics; take 3 or more, or null"
        )
    return (
        f"training.micro_batch_size: {kinds} take their statistics from {micro_batch_size} pairs at a time instead of "
        f"{pairs}, so the gradient is not exactly that of one big batch (it is for towers with layer or group norm)"
    )


class _Remembered(nn.Module):
    """Stands in for a frozen part: its outputs of the first pass come again, in order, in the second."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.outputs: list[Tensor] = []
        self.replays = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.replays:
            return self.outputs.pop(0)
        output: Tensor = self.part(*inputs)
        self.outputs.append(output)
        return output


def _is_frozen(part: nn.Module) -> bool:
    """Nothing of it learns, and it is in evaluation mode: the same inputs give the same outputs."""
    parameters = list(part.parameters())
    learns = any(parameter.requires_grad for parameter in parameters)
    return bool(parameters) and not learns and not any(module.training for module in part.modules())


@contextmanager
def _in_place(model: nn.Module, parts: dict[str, _Remembered]) -> Iterator[None]:
    """Children of `model` replaced by these inside the block."""
    for name, part in parts.items():
        setattr(model, name, part)
    try:
        yield
    finally:
        for name, part in parts.items():
            setattr(model, name, part.part)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norm goes on as in training, but its running statistics stay: the first pass has moved them already."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches


def _leaves(features: Sequence[Features]) -> Features:
    """The features of all chunks, whose gradients end here; the last chunk tells what has any."""
    last = features[-1]
    return Features(
        image=torch.cat([part.image.detach() for part in features]).requires_grad_(last.image.requires_grad),
        text=torch.cat([part.text.detach() for part in features]).requires_grad_(last.text.requires_grad),
        logit_scale=last.logit_scale.detach().requires_grad_(last.logit_scale.requires_grad),
        logit_bias=None
        if last.logit_bias is None
        else last.logit_bias.detach().requires_grad_(last.logit_bias.requires_grad),
    )


def _split(gradient: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if gradient is None else gradient.tensor_split(count)


def _pass_on(*outputs: tuple[Tensor | None, Tensor | None]) -> None:
    """Backward from some outputs, each with its gradient, in one go; those without a gradient are left out."""
    there = [(output, gradient) for output, gradient in outputs if output is not None and gradient is not None]
    if there:
        torch.autograd.backward([output for output, _ in there], [gradient for _, gradient in there])


def _check_replay(first: Features, again: Features) -> None:
    """Raise TrainingError unless both passes gave the same features, up to rounding."""
    for name in ("image", "text"):
        distance = (getattr(again, name).detach() - getattr(first, name)).norm(dim=1).max().item()
        if not distance <= FARTHEST and torch.isfinite(getattr(first, name)).all():
            raise TrainingError(
                f"training.micro_batch_size: {name} features of the second pass differ by {distance:.2g} from the "
                "first: a part of the model draws random numbers that are not torch's, or changes from pass to pass; "
                "set it to null and training.gradient_checkpointing instead"
            )
