"""What the calibrator sees of a pair (picture i, caption j): similarities and their ranks, never who they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SIGNALS = ("cross", "text", "words", "cross_rank", "text_rank")
"""cos(picture i, caption j), cosine and word overlap of the captions i and j, and the ranks of the two cosines.

The cosine of the two pictures is left out on purpose: what the calibrator learns from are further captions of the
*same* picture, so a similarity of pictures would only tell "same photo".
"""


def pair_signals(cross: Tensor, text: Tensor, words: Tensor, cross_reference: Tensor, text_reference: Tensor) -> Tensor:
    """Signals (a, m, 5) of m candidates for each of a anchors.

    Args:
        cross: (a, m) cosine of anchor and candidate across the modalities.
        text: (a, m) cosine of their captions.
        words: (a, m) word overlap of their captions.
        cross_reference, text_reference: (a, r) the anchor's cosines with r other pairs, ascending; -inf in the
            anchor's own place, so that a candidate among them and one beside them are ranked alike.
    """
    ranks = [upper_rank(cross, cross_reference), upper_rank(text, text_reference)]
    return torch.stack([cross, text, words, *ranks], dim=-1)


def upper_rank(values: Tensor, reference: Tensor) -> Tensor:
    """-log of the share (1 + those of `reference` above) / r of `values` (a, m): 0 lowest, log r highest.

    Args:
        values: (a, m).
        reference: (a, r) ascending. A value that is itself among them has as many above it as one beside them.
    """
    size = reference.shape[-1]
    above = size - torch.searchsorted(reference.contiguous(), values.contiguous(), right=True)
    return math.log(size) - (above + 1).clamp(max=size).to(values.dtype).log()


def without_own(similarity: Tensor, own: Tensor) -> Tensor:
    """Rows of (a, n) similarities in ascending order with -inf in place of the anchor's own column, `own` (a,)."""
    return similarity.scatter(1, own[:, None], -torch.inf).sort(dim=1).values
