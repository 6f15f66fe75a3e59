"""How far probabilities can be believed: reliability curve, Brier score, calibration error. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcontrast.errors import DataError


@dataclass(frozen=True)
class Reliability:
    """Probabilities held against the truth.

    Attributes:
        believed: mean probability of each bin that holds anything.
        observed: share of it that is true.
        counts: how many pairs each bin holds.
        base_rate: share of all that is true.
        mean: mean probability; equals `base_rate` when the sum of probabilities is right.
        brier: mean squared error; lower is better.
        brier_constant: the same for one who always answers `base_rate`.
        ece: expected calibration error over the bins: mean |believed - observed|, weighted by their counts.
        auroc: probability that a true pair gets a higher value than a false one (ties count half), or None where all
            are alike.
    """

    believed: list[float]
    observed: list[float]
    counts: list[int]
    base_rate: float
    mean: float
    brier: float
    brier_constant: float
    ece: float
    auroc: float | None


def reliability(probabilities: Tensor, truth: Tensor, bins: int = 10) -> Reliability:
    """Compare (n,) probabilities with (n,) bool truth, in `bins` bins of equal width.

    Raises:
        DataError: nothing to compare, or lengths that contradict each other.
    """
    if probabilities.shape != truth.shape or probabilities.ndim != 1 or not len(truth):
        raise DataError(f"reliability of {tuple(probabilities.shape)} probabilities, {tuple(truth.shape)} truths")
    p, y = probabilities.double(), truth.double()
    place = (p * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(place, minlength=bins)
    held = counts > 0
    believed = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, p)[held] / counts[held]
    observed = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, y)[held] / counts[held]
    base = y.mean()
    return Reliability(
        believed=believed.tolist(),
        observed=observed.tolist(),
        counts=counts[held].tolist(),
        base_rate=base.item(),
        mean=p.mean().item(),
        brier=(p - y).square().mean().item(),
        brier_constant=(base * (1 - base)).item(),
        ece=((believed - observed).abs() * counts[held]).sum().item() / len(p),
        auroc=area_under_roc(p, truth.bool()),
    )


def area_under_roc(scores: Tensor, truth: Tensor) -> float | None:
    """Share of (true, false) couples whose true one scores higher, ties counting half; None without any couple."""
    num_true = int(truth.sum())
    num_false = len(truth) - num_true
    if not num_true or not num_false:
        return None
    _, place, sizes = torch.unique(scores, return_inverse=True, return_counts=True)  # sorted: tied scores share a place
    mid_ranks = sizes.cumsum(0).double() - (sizes.double() - 1) / 2
    rank_sum = float(mid_ranks[place[truth]].sum())
    return (rank_sum - num_true * (num_true + 1) / 2) / (num_true * num_false)
