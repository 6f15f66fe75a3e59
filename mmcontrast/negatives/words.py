"""How alike two captions are word by word: needs no model, so it helps before the model knows anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SKETCHED, SKETCH_WIDTH = 1024, 128
"""Tokens from which on captions are sketched, so many captions at a time, and the width of a sketch."""


class WordStatistics:
    """Inverse document frequencies of the tokens seen so far, and the cosine of captions weighted by them.

    Tokens that stand in every caption (begin and end marks among them) weigh nothing: the weight of a token is
    log((1 + D) / (1 + d)) after D captions, d of which held it (Sparck Jones 1972).

    Attributes:
        counts: (vocabulary,) captions that held the token.
        captions: captions seen.
    """

    def __init__(self, vocabulary: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(vocabulary, device=device)
        self.captions = 0

    def update(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Count the tokens of b captions, (b, t) each."""
        held, tokens = _held(input_ids, attention_mask)
        self.counts.index_add_(0, tokens, held.sum(dim=0))
        self.captions += len(input_ids)

    def similarity(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """(a, b) cosine of the weighted sets of tokens of two lists of captions, each ids and mask; 0 to 1."""
        return overlap(*self._unit(a, b))

    def pairwise(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """(m,) the same of the i-th caption of one list with the i-th of the other."""
        first, second = self._unit(a, b)
        return (first * second).sum(dim=1).clamp(0, 1)

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, w) unit vectors of n captions, (n, t) each; what `overlap` makes of two of them is `similarity`.

        Where the captions hold more than `SKETCHED` different tokens, a count sketch of that width (Charikar et al.
        2002), whose products have the right mean and a small spread.
        """
        tokens = torch.unique(input_ids)
        if len(tokens) <= SKETCHED:
            return self._unit((input_ids, attention_mask), (input_ids[:0], attention_mask[:0]))[0]
        sketch = torch.zeros(len(input_ids), SKETCH_WIDTH, device=input_ids.device)
        for start in range(0, len(sketch), SKETCHED):
            some = slice(start, start + SKETCHED)
            self._add_sketch(input_ids[some], attention_mask[some], sketch[some])
        return sketch

    def _add_sketch(self, input_ids: Tensor, attention_mask: Tensor, out: Tensor) -> None:
        """Count sketches of some captions, in `out`, which is zero."""
        ids = torch.where(attention_mask > 0, input_ids, -1).sort(dim=1).values
        counted = ids >= 0
        counted[:, 1:] &= ids[:, 1:] != ids[:, :-1]  # each token of a caption once
        ids = ids.clamp(min=0)
        weights = self._weights(ids) * counted
        mixed = ids * 0x9E37_79B1 & 0xFFFF_FFFF
        sign = 1.0 - 2.0 * (mixed >> 31)
        out.scatter_add_(1, (mixed >> 8) % SKETCH_WIDTH, weights * sign)
        out.div_(weights.norm(dim=1, keepdim=True).clamp(min=1e-12))

    def _unit(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        width = max(a[0].shape[1], b[0].shape[1])
        ids, mask = (
            torch.cat([_wide(x, width), _wide(y, width)]).to(self.counts.device) for x, y in zip(a, b, strict=True)
        )
        held, tokens = _held(ids, mask)  # a+b u
        unit = torch.nn.functional.normalize(held * self._weights(tokens), dim=1)
        return unit[: len(a[0])], unit[len(a[0]) :]

    def _weights(self, tokens: Tensor) -> Tensor:
        """Of tokens, of any shape."""
        return ((1 + self.captions) / (1 + self.counts[tokens])).log().clamp(min=0)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"counts": self.counts.cpu(), "captions": self.captions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.counts.copy_(state["counts"])
        self.captions = state["captions"]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """(a, b) word overlap of captions, 0 to 1, from their vectors (a, w), (b, w)."""
    return (first @ second.T).clamp(0, 1)


def _held(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """(b, u) 1 where a caption holds the token, for the u different tokens of the captions, and those tokens."""
    tokens, place = torch.unique(input_ids, return_inverse=True)
    held = torch.zeros(len(input_ids), len(tokens), device=input_ids.device)
    return held.scatter_reduce_(1, place, attention_mask.float(), "amax"), tokens


def _wide(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
