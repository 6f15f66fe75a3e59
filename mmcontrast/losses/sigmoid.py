"""The pairwise sigmoid loss of SigLIP, with the same notion of weighted negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    log_weights: Tensor | None = None,
    positives: Tensor | None = None,
    all_text_features: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Mean over b images of the summed binary cross-entropy over n texts (Zhai et al. 2023, eq. 1).

    Args:
        image_features, text_features: (b, d) L2-normalised; row i of both is a pair.
        logit_scale, logit_bias: scalars; the scale is already exponentiated.
        log_weights: (b, n), added to the logit of each negative; -inf removes it.
        positives: (b, n) bool, extra pairs whose target is 1.
        all_text_features: (n, d), the texts of all ranks; `text_features` by default.
        offset: place of this rank's first row among the n texts.

    Returns:
        Scalar.
    """
    candidates = text_features if all_text_features is None else all_text_features
    logits = logit_scale * image_features @ candidates.T + logit_bias  # b n
    rows = torch.arange(len(logits), device=logits.device)
    matches = torch.zeros_like(logits, dtype=torch.bool)
    matches[rows, rows + offset] = True
    if positives is not None:
        matches = matches | positives
    negatives = logits if log_weights is None else logits + log_weights.masked_fill(matches, 0.0)
    # softplus(-a) = -log sigmoid(a) for pairs, softplus(a + log w) for negatives; exactly 0 at w = 0.
    return F.softplus(torch.where(matches, -logits, negatives)).sum(dim=1).mean()
