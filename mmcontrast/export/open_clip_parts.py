"""What the mappings of single towers onto open_clip's classes share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmcontrast.errors import ModelError

OTHERS = "the format onnx can hold it, and mmcontrast's own folder"


@dataclass(frozen=True)
class Part:
    """One tower with its head, as open_clip has it.

    Attributes:
        config: of open_clip's vision_cfg or text_cfg.
        weights: by open_clip's names, without "visual." or "text.".
        quick_gelu: which activation the tower needs of open_clip's one switch for both; None where it does not matter.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    quick_gelu: bool | None


@dataclass(frozen=True)
class Head:
    """A linear map; (embed_dim, width) and (embed_dim,), each None where it does nothing."""

    weight: Tensor | None
    bias: Tensor | None


def cannot(what: str, can: str = OTHERS) -> ModelError:
    """The error for what open_clip has no class for."""
    return ModelError(f"open_clip cannot express {what}; {can}")


def is_mlp(projection: nn.Module) -> bool:
    """Whether a head made by `build_projection` is one of two layers."""
    return "hidden" in dict(projection.named_children())


def linear_head(modules: Iterable[nn.Module | None], where: str) -> Head:
    """One map of all linear layers, applied one after the other; dropout and identities do nothing.

    Raises:
        ModelError: something between them is not linear.
    """
    weight: Tensor | None = None
    bias: Tensor | None = None
    for module in modules:
        for layer in (part for part in module.modules() if not list(part.children())) if module is not None else ():
            if isinstance(layer, nn.Dropout | nn.Identity | nn.Sequential):
                continue
            if not isinstance(layer, nn.Linear):
                raise cannot(f"{where} with an mlp before its embedding")
            own = layer.weight.detach().double()
            weight = own if weight is None else own @ weight
            bias = None if bias is None else own @ bias
            if layer.bias is not None:
                bias = layer.bias.detach().double() + (0 if bias is None else bias)
    return Head(None if weight is None else weight.float(), None if bias is None else bias.float())


def plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that a file can hold: on the CPU, in fp32 (counters as they are), in the usual order in memory."""
    return {
        name: (value.detach().cpu().float() if value.is_floating_point() else value.detach().cpu()).contiguous().clone()
        for name, value in weights.items()
    }
