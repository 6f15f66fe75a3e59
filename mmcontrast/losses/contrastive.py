"""Symmetric InfoNCE with weighted negatives and extra positives.

One idea carries every rule about negatives: weighting a negative by w is adding log w to its logit. A mask is
-inf, the plain loss is `None`, and positives always keep 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(logits: Tensor, *, offset: int = 0, positives: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of b anchors over n candidates (van den Oord et al. 2018, eq. 4).

    Args:
        logits: (b, n), already scaled and weighted; the positive of row i is column offset + i.
        offset: column of the first row's positive: rank * b when rows are one rank's share of the batch.
        positives: (b, n) bool, further positives. The target is then uniform over all positives of the row,
            outside the logarithm: L_out of SupCon (Khosla et al. 2020, eq. 2). Or (b, n) numbers from 0 to 1, the
            weight of each as a target; the row's own positive has 1.

    Returns:
        Scalar.
    """
    targets = torch.arange(offset, offset + len(logits), device=logits.device)
    if positives is None:
        return F.cross_entropy(logits, targets)
    target = positives.to(logits.dtype).scatter(1, targets[:, None], 1.0)  # b n
    log_p = logits.log_softmax(dim=1).masked_fill(target == 0, 0.0)  # masked first: 0 * -inf would be nan
    return -((log_p * target).sum(dim=1) / target.sum(dim=1)).mean()


def symmetric_info_nce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    *,
    logit_bias: Tensor | float | None = None,
    log_weights: Tensor | None = None,
    text_log_weights: Tensor | None = None,
    positives: Tensor | None = None,
    text_positives: Tensor | None = None,
    all_image_features: Tensor | None = None,
    all_text_features: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Mean of the image-to-text and text-to-image InfoNCE (CLIP, Radford et al. 2021, figure 3).

    Args:
        image_features, text_features: (b, d) L2-normalised; row i of both is a pair.
        logit_scale: scalar that multiplies the cosines, already exponentiated.
        logit_bias: scalar added to every logit; it cancels here and is taken for symmetry with `sigmoid_loss`.
        log_weights: (b, n), log-weight of text j as a negative of image i; -inf removes it. None is the plain
            loss, bit for bit.
        text_log_weights: (b, n), log-weight of image j as a negative of text i; the transpose of `log_weights`
            by default, which needs n == b.
        positives, text_positives: (b, n) bool, extra positives of the two directions, likewise, or their weights.
        all_image_features, all_text_features: (n, d), the candidates of all ranks; the b rows by default.
        offset: place of this rank's first row among the n candidates.

    Returns:
        Scalar: the mean over the b rows, so that the mean over ranks is the loss of the global batch.

    Shapes of one rank with b = 2 rows out of n = 4 (offset 2); P marks the positives::

        image rows x all texts     . . P .
                                   . . . P
    """
    all_image_features = image_features if all_image_features is None else all_image_features
    all_text_features = text_features if all_text_features is None else all_text_features
    if text_log_weights is None and log_weights is not None:
        text_log_weights = log_weights.T
    if text_positives is None and positives is not None:
        text_positives = positives.T
    image_to_text = _direction(
        image_features, all_text_features, logit_scale, logit_bias, log_weights, positives, offset
    )
    text_to_image = _direction(
        text_features, all_image_features, logit_scale, logit_bias, text_log_weights, text_positives, offset
    )
    return (image_to_text + text_to_image) / 2


def _direction(
    anchors: Tensor,
    candidates: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None,
    log_weights: Tensor | None,
    positives: Tensor | None,
    offset: int,
) -> Tensor:
    logits = scale * anchors @ candidates.T  # b n
    if bias is not None:
        logits = logits + bias
    if log_weights is not None:
        own = torch.eye(len(anchors), candidates.shape[0], dtype=torch.bool, device=anchors.device)
        keep = own.roll(offset, dims=1) if positives is None else own.roll(offset, dims=1) | (positives > 0)
        logits = logits + log_weights.masked_fill(keep, 0.0)  # positives are never weighted
    return info_nce(logits, offset=offset, positives=positives)
