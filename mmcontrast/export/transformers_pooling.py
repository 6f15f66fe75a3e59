"""Mean pooling as one more layer, for classes of transformers that pool at one token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcontrast.export.transformers_parts import OTHERS, cannot

_LOUD = 2.0**30
"""Factor beside which a residual of up to a hundred is lost in rounding; half precision (float16) cannot hold it."""


def mean_layer(head: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """What a layer's attention writes, and what is left to project behind the norm that follows it.

    With zero queries and keys a token attends to all real ones alike. The norm takes away the mean of all coordinates
    and their scale: so the projected mean (d values) is written into directions that sum to 0 (there are width - 1 of
    them), and its scale does not count, for embeddings are normalised. It is written so loud that the token's own
    residual is lost beside it.

    Args:
        head: (d, width) from the mean onto the shared space.
        what: of which tower, for the error.

    Returns:
        The output matrix of the attention (width, width), whose values are its input as it is; the head behind the
        norm (d, width), which has a gain of 1 and no bias.

    Raises:
        ModelError: the embedding has as many values as the tower is wide.
    """
    size, width = head.shape
    if size >= width:
        raise cannot(
            f"{what} of width {width} pooled by its mean with model.embed_dim {size}",
            f"choose an embed_dim below {width}, or another pooling; {OTHERS}",
        )
    basis = _no_mean(width)[:, :size]
    loud = _LOUD / float(head.norm(dim=1).mean())
    return (basis @ head.double() * loud).float(), basis.T.float().contiguous()


def _no_mean(width: int) -> Tensor:
    """Orthonormal columns (width, width - 1) that sum to 0: the cosines of the discrete transform, in float64."""
    rows = torch.arange(width, dtype=torch.float64)[:, None] + 0.5
    columns = torch.arange(1, width, dtype=torch.float64)[None, :]
    cosines: Tensor = torch.cos(math.pi / width * rows * columns) * (2 / width) ** 0.5
    return cosines


def linear(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A linear layer without an offset."""
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(len(weight))}


def plain_norm(name: str, width: int) -> dict[str, Tensor]:
    """A norm that neither scales nor shifts."""
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
