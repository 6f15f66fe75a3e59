"""Rules about negatives: pure functions of one direction's similarities to log-weights (b, n).

Weighting a negative by w is adding log w to its logit: 0 leaves it, -inf takes it out. The anchor's own column and
known positives are none of their business: the loss sets them to 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def text_similarity_log_weights(words: Tensor, floor: float) -> Tensor:
    """log(1 - word overlap), at least log(floor): what shares its words is probably no negative."""
    return (1 - words).clamp(min=floor).log()


def attenuation(probability: Tensor, floor: float, strength: float = 1.0) -> Tensor:
    """strength * log max(1 - p, floor) for the probability p that a negative matches after all.

    Since E[sum over true negatives of e^s] = sum of (1 - p) e^s, calibrated p make the softmax's denominator
    unbiased. `strength` is the ramp, 0 to 1.
    """
    return strength * (1 - probability).clamp(min=floor).log()


def margin_log_weights(cross: Tensor, true: Tensor, margin: float, relative: bool = False) -> Tensor:
    """-inf for candidates whose cosine exceeds the true pair's less a margin (GISTEmbed, Solatorio 2024).

    Args:
        cross: (b, n) cosines of anchors and candidates.
        true: (b,) cosine of each anchor's own pair.
        margin: as a cosine, or as a share of the true pair's (relative).
    """
    limit = true * (1 - margin) if relative else true - margin
    return _take_out(cross > limit[:, None])


def closest_threshold(similarity: Tensor, count: int, own: Tensor) -> Tensor:
    """(b,) similarity of each anchor's `count`-th closest candidate (b, n); `own` (b, n) bool is its own column."""
    return similarity.masked_fill(own, -torch.inf).topk(count, dim=1).values[:, -1]


def sum_tilted(tilted: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum of e^(beta logit) over the negatives of each anchor, and their number, for `log_mean`.

    Args:
        tilted: (b, n) beta * scaled cosine, -inf where a candidate is no negative.
        dim: that of the candidates.
    """
    return tilted.logsumexp(dim), (tilted > -torch.inf).sum(dim)


def log_mean(log_sum: Tensor, count: Tensor) -> Tensor:
    """(b,) logarithm of the mean of e^(beta logit) over an anchor's negatives.

    A negative's log-weight is its beta * logit less this, so that hard ones count more and the mean is 1: HCL
    (Robinson et al. 2021, eq. 4), HN-NCE (Radenovic et al. 2023, eq. 4). 0 for an anchor without negatives.
    """
    return torch.where(count > 0, log_sum - count.clamp(min=1).to(log_sum.dtype).log(), 0.0)


def stratum_log_weights(
    near_count: Tensor, far_count: Tensor, near_share: Tensor, strength: float
) -> tuple[Tensor, Tensor]:
    """strength * log kappa, where kappa undoes that guided batches hold too many candidates of the anchor's cluster.

    kappa_ij = (n - 1) W_h / n_h(i) for the stratum h of candidate j (near: same cluster, far: the rest), W its share
    of all other pairs in the data, n_h(i) its number in the batch: with strength 1 the weighted sum over the batch
    estimates the uniform one without bias (stratified sampling), as long as no stratum is empty.

    Args:
        near_count, far_count: (b,) candidates of the anchor's cluster and of others in the batch.
        near_share: (b,) share of the other pairs of the data set in the anchor's cluster.
        strength: lambda, 0 to 1.

    Returns:
        (b,) log-weights of near and of far candidates.
    """
    pairs = near_count + far_count
    near = (pairs * near_share / near_count.clamp(min=1)).clamp(min=1e-6).log()
    far = (pairs * (1 - near_share) / far_count.clamp(min=1)).clamp(min=1e-6).log()
    return strength * near, strength * far


def effective_negatives(log_weights: Tensor, own: Tensor) -> Tensor:
    """(b,) effective number of negatives (sum w)^2 / sum w^2 of each anchor; the own column does not count."""
    weights = log_weights.exp().masked_fill(own, 0.0)
    return weights.sum(dim=1) ** 2 / weights.square().sum(dim=1).clamp(min=1e-12)


def ramp(progress: float, start: float, length: float) -> float:
    """0 before `start`, 1 from `start + length` on, a cosine between; all are shares of the training."""
    if progress < start:
        return 0.0
    if progress >= start + length:
        return 1.0
    return 0.5 - 0.5 * math.cos(math.pi * (progress - start) / length)


def _take_out(which: Tensor) -> Tensor:
    return torch.zeros(which.shape, device=which.device).masked_fill(which, -torch.inf)
