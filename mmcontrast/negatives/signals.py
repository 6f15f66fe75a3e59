"""What the calibrator sees of a pair (picture i, caption j): similarities and their ranks, never who they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SIGNALS = ("cross", "text", "words", "cross_rank", "text_rank")
"""cos(picture i, caption j), cosine and word overlap of the captions i and j, and the ranks of the two cosines.

The cosine of the two pictures, and that of picture j and caption i, are left out on purpose: where the calibrator
learns from further captions of the *same* picture they would only tell "same photo", and "own pair".
"""
LINKED_SIGNALS = (
    *("cross", "text", "reverse", "pictures", "words"),
    *("cross_rank", "text_rank", "reverse_rank", "pictures_rank"),
)
"""Where it learns from pairs of two pictures (see `negatives.evidence`) it may see these two cosines as well."""


TIE = 1e-6
Compared = tuple[Tensor, Tensor]
"""(a, m) cosines of anchors and candidates, and (a, r) those of the same kind with r other pairs, ascending; -inf in
the anchor's own place, so that a candidate among them and one beside them are ranked alike."""


def pair_signals(compared: Sequence[Compared], words: Tensor) -> Tensor:
    """Signals (a, m, 2 s + 1) of m candidates for each of a anchors: `SIGNALS` for s = 2, `LINKED_SIGNALS` for 4.

    Args:
        compared: anchor and candidate across the modalities, and their captions; for linked evidence then across the
            modalities the other way round, and their pictures.
        words: (a, m) word overlap of their captions.
    """
    ranks = [upper_rank(values, reference) for values, reference in compared]
    return torch.stack([*(values for values, _ in compared), words, *ranks], dim=-1)


def upper_rank(values: Tensor, reference: Tensor) -> Tensor:
    """-log of the share (1 + those of `reference` above) / r of `values` (a, m): 0 lowest, log r highest.

    Args:
        values: (a, m).
        reference: (a, r) ascending. A value that is itself among them has as many above it as one beside them.
    """
    size = reference.shape[-1]
    # A pair that is among the others itself must not be ranked by the last bit of two ways to compute one cosine.
    above = size - torch.searchsorted(reference.contiguous(), (values + TIE).contiguous(), right=True)
    return math.log(size) - (above + 1).clamp(max=size).to(values.dtype).log()


def without_own(similarity: Tensor, own: Tensor) -> Tensor:
    """Rows of (a, n) similarities in ascending order with -inf in place of the anchor's own column, `own` (a,)."""
    return similarity.scatter(1, own[:, None], -torch.inf).sort(dim=1).values
