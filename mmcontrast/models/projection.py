"""Heads from a tower's output onto the shared space."""

from __future__ import annotations

from collections import OrderedDict

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


def _linear(width: int, out: int) -> nn.Linear:
    # No bias: the outputs are normalised and a common offset would only pull all embeddings together.
    linear = nn.Linear(width, out, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear
