"""What every tower offers, and the few things that towers of all libraries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import ImageTowerSpec, TextTowerSpec
from mmcontrast.preprocess import ImagePreprocess

Pooling = Literal["mean", "cls", "eos"]


class ImageTower(nn.Module):
    """A trunk whose forward takes (b, 3, h, w) normalised floats and gives (b, width)."""

    def set_patch_dropout(self, share: float) -> bool:
        """Leave out this share of the patches in training mode; False when the trunk cannot."""
        return False

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Switch it; False when the library cannot do it for this trunk."""
        raise NotImplementedError


class TextTower(nn.Module):
    """A trunk whose forward takes ids (b, t) and mask (b, t), padded on the right, and gives (b, width).

    Attributes:
        context_length: tokens of the longest caption.
        vocab_size: ids that it knows.
        shorter_is_cheaper: whether its time grows with the padding it is given; False where it reads a fixed length.
    """

    context_length: int
    vocab_size: int
    shorter_is_cheaper = True

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """Switch it; False when the library cannot do it for this trunk."""
        raise NotImplementedError


@dataclass(frozen=True)
class BuiltImageTower:
    """A tower with the description that builds it again offline, without its pretrained weights."""

    module: ImageTower
    width: int
    spec: ImageTowerSpec
    preprocess: ImagePreprocess


@dataclass(frozen=True)
class BuiltTextTower:
    """A tower with the description that builds it again offline, without its pretrained weights."""

    module: TextTower
    width: int
    spec: TextTowerSpec


class Vocabulary(Protocol):
    """What a text tower must know of the tokenizer."""

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def pad_id(self) -> int: ...  # noqa: D102

    @property
    def eos_id(self) -> int: ...  # noqa: D102

    @property
    def bos_id(self) -> int | None: ...  # noqa: D102


def pool_tokens(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector for each caption: (b, t, width), (b, t) -> (b, width).

    "eos" is the last real token by the mask, never by comparing ids: towers that look for the greatest id, or
    for the id of another vocabulary, give all captions the same vector and nobody notices.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "eos":
        last = attention_mask.sum(dim=1).clamp(min=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def fill_to_length(input_ids: Tensor, attention_mask: Tensor, length: int, pad_id: int) -> Tensor:
    """Ids padded with `pad_id` up to `length`: (b, t) -> (b, length).

    For towers that were trained to read their padding (SigLIP, CLIPA, MobileCLIP).
    """
    ids = input_ids.masked_fill(attention_mask == 0, pad_id)
    return nn.functional.pad(ids, (0, length - ids.shape[1]), value=pad_id)


def probe_image(tower: ImageTower, image_size: int) -> int:
    """Width of an image tower; see `_probe`."""
    return _probe(tower, "model.image", torch.zeros(1, 3, image_size, image_size))


def probe_text(tower: TextTower) -> int:
    """Width of a text tower; see `_probe`."""
    return _probe(tower, "model.text", torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))


def _probe(tower: nn.Module, where: str, *example: Tensor) -> int:
    """Width of the tower's output on one example; parameters that the output does not depend on are frozen.

    Libraries keep unused parts (poolers, mask tokens); left trainable they would stall distributed training,
    which waits for the gradient of every parameter.

    Raises:
        ModelError: the tower cannot take this input, or gives something else than one vector.
    """
    training = tower.training
    tower.eval()
    with torch.inference_mode(False), torch.enable_grad():
        try:
            output = tower(*example)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError) as error:
            shape = " x ".join(str(side) for side in example[0].shape)
            raise ModelError(f"{where}: the tower cannot take an input of {shape}: {one_line(error)}") from error
        if output.ndim != 2:
            raise ModelError(f"{where}: the tower gives {output.ndim} dimensions, not one vector; set its pooling")
        parameters = [p for p in tower.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True) if parameters else ()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
    tower.train(training)
    return int(output.shape[1])


def one_line(error: BaseException) -> str:
    """The first words of a library's error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
