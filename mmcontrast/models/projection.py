"""Heads from a tower's output onto the shared space."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import Projection


def build_projection(kind: Projection, width: int, embed_dim: int, dropout: float, tower: str) -> nn.Module:
    """(n, width) -> (n, embed_dim); dropout acts on the tower's output.

    `tower` ("image" or "text") names the config field in errors.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if dropout:
        parts["dropout"] = nn.Dropout(dropout)
    if kind == "none":
        if width != embed_dim:
            raise ModelError(
                f"model.{tower}.projection is none, but the tower gives {width} values and model.embed_dim is "
                f"{embed_dim}; make them equal or use a linear projection"
            )
    elif kind == "linear":
        parts["linear"] = _linear(width, embed_dim)
    else:
        hidden = max(width, embed_dim)
        parts["hidden"] = nn.Linear(width, hidden)
        parts["gelu"] = nn.GELU()
        parts["linear"] = _linear(hidden, embed_dim)
    return nn.Sequential(parts)


def plain_projection(widths: Sequence[int]) -> nn.Module:
    """A checkpoint's own head: [in, out], or [in, hidden, out] with a GELU between them, as open_clip has it."""
    linear = [nn.Linear(before, after, bias=False) for before, after in pairwise(widths)]
    return linear[0] if len(linear) == 1 else nn.Sequential(linear[0], nn.GELU(), linear[1])


def projection_widths(projection: nn.Module) -> list[int]:
    """The inverse of `plain_projection`."""
    linear = [module for module in projection.modules() if isinstance(module, nn.Linear)]
    return [linear[0].in_features, *(module.out_features for module in linear)]


def _linear(width: int, out: int) -> nn.Linear:
    # No bias: the outputs are normalised and a common offset would only pull all embeddings together.
    linear = nn.Linear(width, out, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear
