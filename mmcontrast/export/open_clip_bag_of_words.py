"""A bag of words as open_clip's text transformer of one layer, which is exact.

With zero queries and keys the end mark attends to itself and all tokens before it alike: its attention is the mean.
What stands in the way are the layer's own sums and norms:

- The first norm divides each word by its standard deviation. Two more coordinates, c and -c, give all words the same
  one, and the norm's gain takes it back.
- The residual adds the end mark's own embedding, which is the same in all captions: a bias takes it away.
- The last norm divides by the deviation of all coordinates; mean and gain are scaled for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcontrast.export.open_clip_parts import Head, Part
from mmcontrast.models.towers_bag_of_words import BagOfWordsTower

_EPS = 1e-5  # of open_clip's norms


def bag_of_words(tower: BagOfWordsTower, head: Head, eos_id: int) -> Part:
    """The tower as text_cfg and weights of a `TextTransformer`; marks and lengths are the caller's to set.

    Args:
        tower: of any width.
        head: without a bias.
        eos_id: the mark that ends every caption.
    """
    width = tower.norm.normalized_shape[0]
    whole = width + 2
    words = _words(tower.embedding.weight.detach().double())
    gain = (words[0].square().mean() + _EPS).sqrt()  # the same for all words
    value = torch.zeros(3 * whole, whole)
    value[2 * whole : 3 * whole - 2, :width] = (whole / width * _EPS / tower.norm.eps) ** 0.5 * torch.eye(width)
    matrix = torch.eye(width) if head.weight is None else head.weight
    layer = "transformer.resblocks.0"
    weights = {
        "token_embedding.weight": words,
        "positional_embedding": torch.zeros(tower.context_length, whole),
        **_layer(f"{layer}.ln_1", gain.repeat(whole)),
        f"{layer}.attn.in_proj_weight": value,
        f"{layer}.attn.in_proj_bias": torch.zeros(3 * whole),
        **_layer(f"{layer}.attn.out_proj", torch.eye(whole), -words[eos_id]),
        **_layer(f"{layer}.ln_2", torch.ones(whole)),
        **_layer(f"{layer}.mlp.c_fc", torch.zeros(1, whole)),
        **_layer(f"{layer}.mlp.c_proj", torch.zeros(whole, 1)),
        **_layer("ln_final", _longer(tower.norm.weight.detach() * (width / whole) ** 0.5), _longer(tower.norm.bias)),
        "text_projection": torch.cat([matrix.T, torch.zeros(2, len(matrix))]),
    }
    config = {"width": whole, "heads": 1, "layers": 1, "mlp_ratio": 1.5 / whole}  # of which open_clip makes one unit
    return Part(config, weights, None)


def _words(table: Tensor) -> Tensor:
    """Centred rows (the last norm does not see the difference), made as long as the longest: (v, w) -> (v, w + 2)."""
    centred = table - table.mean(dim=1, keepdim=True)
    squares = centred.square().sum(dim=1, keepdim=True)
    missing = ((squares.max() - squares) / 2).sqrt()
    return torch.cat([centred, missing, -missing], dim=1)


def _layer(name: str, weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(len(weight)) if bias is None else bias}


def _longer(vector: Tensor) -> Tensor:
    """By two zeros."""
    return torch.cat([vector.detach(), torch.zeros(2)])
