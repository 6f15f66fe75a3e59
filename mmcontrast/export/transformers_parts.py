"""What the mappings of single towers onto transformers' classes share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcontrast.errors import ModelError

LABEL_TOKENS = 512
"""Tokens that an exported text tower takes at least: transformers' pipeline does not cut long labels."""

OTHERS = "the format onnx can hold it, and mmcontrast's own folder"

NEARLY_LINEAR = 1e-4
"""Factor before a tanh that is to do nothing: of values up to 10 it then changes less than a millionth part."""


@dataclass(frozen=True)
class Part:
    """One tower as transformers has it.

    Attributes:
        config: of a class that `AutoModel` knows.
        weights: all of that class, by its own names.
        head: (embed_dim, width) from the class's pooled output onto the shared space; None where the pooled output
            is the embedding already.
    """

    config: Any
    weights: dict[str, Tensor]
    head: Tensor | None


def cannot(what: str, can: str = OTHERS) -> ModelError:
    """The error for a tower that transformers has no class for."""
    return ModelError(f"transformers cannot express {what}; {can}")


def head_of(projection: nn.Module, own: Tensor | None, where: str) -> Tensor | None:
    """A head of ours behind a projection of the tower's own, as one matrix (embed_dim, width).

    Args:
        projection: as `build_projection` makes it; dropout does nothing here.
        own: (out, width) of the tower, or None.
        where: "image" or "text", for the error.

    Raises:
        ModelError: it has two layers.
    """
    layers = dict(projection.named_children())
    if "hidden" in layers:
        raise cannot(f"a head of two layers (model.{where}.projection: mlp), only a linear one")
    if "linear" not in layers:
        return own
    linear = layers["linear"]
    assert isinstance(linear, nn.Linear)
    if own is None:
        return linear.weight.detach()
    return (linear.weight.detach().double() @ own.double()).float()


def lengthen(positions: Tensor, rows: int) -> Tensor:
    """Position embeddings (n, width) with the last one repeated, so that there are at least `rows`."""
    spare = rows - len(positions)
    return positions if spare <= 0 else torch.cat([positions, positions[-1:].expand(spare, -1)])


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under longer names."""
    return {f"{prefix}{name}": value for name, value in weights.items()}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, detached and dense."""
    return {name: value.detach().contiguous() for name, value in module.state_dict().items()}


def activation(layer: nn.Module) -> str:
    """Its name in transformers.

    Raises:
        ModelError: it is no GELU.
    """
    if type(layer).__name__ == "QuickGELU":
        return "quick_gelu"
    if type(layer).__name__ in ("GELU", "GELUTanh"):  # torch's, and timm's
        tanh = "Tanh" in type(layer).__name__ or getattr(layer, "approximate", "none") == "tanh"
        return "gelu_pytorch_tanh" if tanh else "gelu"
    raise cannot(f"the activation {type(layer).__name__}")


def epsilon(norms: Iterable[nn.LayerNorm]) -> float:
    """The one epsilon of all norms.

    Raises:
        ModelError: they differ.
    """
    found = {layer.eps for layer in norms}
    if len(found) != 1:
        raise cannot(f"a tower whose norms have several epsilons ({found})")
    return float(found.pop())
