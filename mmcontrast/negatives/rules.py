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


def quantile_log_weights(similarity: Tensor, share: float, own: Tensor) -> Tensor:
    """-inf for the closest `share` of each anchor's candidates, rounded to the nearest number of them.

    Args:
        similarity: (b, n) of anchors and candidates.
        share: 0 to 1.
        own: (b, n) bool, the anchor's own column, which does not count among the closest.
    """
    count = round(share * (similarity.shape[1] - 1))
    if count == 0:
        return torch.zeros_like(similarity)
    closest = similarity.masked_fill(own, -torch.inf).topk(count, dim=1).values[:, -1:]
    return _take_out((similarity >= closest) & ~own)


def hardness_log_weights(logits: Tensor, beta: float, own: Tensor) -> Tensor:
    """beta * s_ij - log mean over the negatives k of exp(beta * s_ik): hard negatives count more, 1 on average.

    HCL (Robinson et al. 2021, eq. 4), HN-NCE (Radenovic et al. 2023, eq. 4). A candidate of logit -inf is no
    negative and keeps -inf.

    Args:
        logits: (b, n) scaled cosines, detached; -inf where a candidate is out already.
        own: (b, n) bool, the anchor's own column.
    """
    out = own | (logits == -torch.inf)
    tilted = (beta * logits).masked_fill(out, -torch.inf)
    count = (~out).sum(dim=1, keepdim=True).clamp(min=1).to(logits.dtype)
    mean = tilted.logsumexp(dim=1, keepdim=True) - count.log()
    return (tilted - mean).masked_fill(own, 0.0)


def sampling_log_weights(near: Tensor, near_share: Tensor, own: Tensor, strength: float) -> Tensor:
    """strength * log kappa, where kappa undoes that guided batches hold too many candidates of the anchor's cluster.

    kappa_ij = (n - 1) W_h / n_h(i) for the stratum h of candidate j (near: same cluster, far: the rest), W its share
    of all other pairs in the data, n_h(i) its number in the batch: with strength 1 the weighted sum over the batch
    estimates the uniform one without bias (stratified sampling), as long as no stratum is empty.

    Args:
        near: (b, n) bool, candidate of the anchor's cluster.
        near_share: (b,) share of the other pairs of the data set in the anchor's cluster.
        own: (b, n) bool, the anchor's own column.
        strength: lambda, 0 to 1.
    """
    near, far = near & ~own, ~near & ~own
    pairs = near.shape[1] - 1
    near_count, far_count = near.sum(dim=1).clamp(min=1), far.sum(dim=1).clamp(min=1)
    near_log = (pairs * near_share / near_count).clamp(min=1e-6).log()
    far_log = (pairs * (1 - near_share) / far_count).clamp(min=1e-6).log()
    weights = torch.where(near, near_log[:, None], far_log[:, None])
    return strength * weights.masked_fill(own, 0.0)


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
