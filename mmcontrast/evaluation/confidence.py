"""How sure zero-shot classification is of each picture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.evaluation.zero_shot import zero_shot_logits

_CHUNK = 4096


class Confidence(NamedTuple):
    """Probabilities of n pictures.

    Attributes:
        predicted: (n,) float64 of the predicted class.
        true: (n,) float64 of the true class.
    """

    predicted: Tensor
    true: Tensor


def confidence(
    image_features: Tensor, weights: Tensor, predictions: Tensor, labels: Tensor, *, logit_scale: float
) -> Confidence:
    """The probability that a model states for the predicted and for the true class: softmax of scaled cosines.

    Args:
        image_features: (n, d).
        weights: (c, d) of the classes, see `class_weights`.
        predictions: (n,) int64 in 0..c-1.
        labels: (n,) int64 in 0..c-1.
        logit_scale: factor of the cosines.
    """
    predicted, true = [], []
    for features, guess, label in zip(
        *(torch.split(part, _CHUNK) for part in (image_features, predictions, labels)), strict=True
    ):
        shares = (logit_scale / 100 * zero_shot_logits(features, weights)).softmax(dim=1)  # (chunk, c)
        predicted.append(shares.gather(1, guess[:, None]).squeeze(1))
        true.append(shares.gather(1, label[:, None]).squeeze(1))
    return Confidence(torch.cat(predicted), torch.cat(true))
