"""A text tower for small budgets: the mean of word embeddings.

On a CPU a small transformer costs as much as the image tower, and with a few thousand pairs it does not pay: the bag
of words learns more in the same time. It cannot tell "a dog on a man" from "a man on a dog".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmcontrast.errors import ModelError
from mmcontrast.models.spec import TextTowerSpec
from mmcontrast.models.towers import BuiltTextTower, TextTower, Vocabulary

_DEFAULTS: dict[str, Any] = {"width": 256, "token_dropout": 0.1}


class BagOfWordsTower(TextTower):
    """LayerNorm of the mean embedding of a caption's tokens; in training some tokens are left out of the mean.

    This is the deep averaging network of Iyyer et al. (2015) without hidden layers, and with its word dropout.
    """

    shorter_is_cheaper = False  # looking up words is nothing beside the gradient of the whole table, once a pass

    def __init__(self, vocab_size: int, context_length: int, *, width: int, token_dropout: float) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        self.norm = nn.LayerNorm(width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(b, t), (b, t) -> (b, width)."""
        weights = attention_mask.to(self.embedding.weight.dtype)
        if self.training and self.token_dropout:
            kept = torch.rand_like(weights) >= self.token_dropout
            kept[:, 0] = True  # the begin mark stays, so that no caption is empty
            weights = weights * kept
        total = (self.embedding(input_ids) * weights[..., None]).sum(dim=1)
        mean: Tensor = self.norm(total / weights.sum(dim=1, keepdim=True))
        return mean

    def set_gradient_checkpointing(self, enable: bool) -> bool:
        """There is nothing worth it."""
        return False


def build_text_tower(spec: TextTowerSpec, vocabulary: Vocabulary) -> BuiltTextTower:
    """The tower that `spec.kwargs` ({width, token_dropout}) describe.

    Raises:
        ModelError: weights, a name or further kwargs were asked for, which there are none of.
    """
    if spec.pretrained or spec.name is not None:
        raise ModelError("model.text: a bag of words has no name and no pretrained weights; leave both out")
    if unknown := sorted(spec.kwargs.keys() - _DEFAULTS.keys() - {"vocab_size"}):
        raise ModelError(f"model.text.kwargs: a bag of words has no {unknown[0]!r}, but {', '.join(_DEFAULTS)}")
    kwargs = _DEFAULTS | {"vocab_size": vocabulary.vocab_size} | spec.kwargs
    width, dropout = kwargs["width"], kwargs["token_dropout"]
    if not (isinstance(width, int) and width > 0 and isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise ModelError(
            f"model.text.kwargs: width must be a positive number and token_dropout in [0, 1), "
            f"not {width!r} and {dropout!r}"
        )
    tower = BagOfWordsTower(kwargs["vocab_size"], spec.context_length, width=width, token_dropout=dropout)
    return BuiltTextTower(tower, width, replace(spec, kwargs=kwargs))
