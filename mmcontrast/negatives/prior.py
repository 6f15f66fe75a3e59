"""How many of the unlabelled pairs match after all, estimated from scores of matching and of unlabelled pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def estimate_prior(positives: Tensor, unlabelled: Tensor, *, least: float = 1e-4, most: float = 0.5) -> float:
    """Share of positives among the unlabelled: the least ratio of the two samples' upper tails.

    Above any threshold the unlabelled hold at least pi times the positives' share, with equality where no negative
    reaches: pi <= share of U above t / share of P above t (Garg et al. 2021, Best Bin Estimation). The threshold is
    the one whose ratio plus its standard error is least, and it leaves 30% of the positives above it, so that neither
    a few pairs decide nor what sets known matches apart from unknown ones (the most alike are over-represented).

    Args:
        positives: (p,) scores of pairs that match.
        unlabelled: (u,) scores of pairs drawn at random.
        least, most: bounds of the answer.
    """
    quantiles = torch.linspace(0.05, 0.7, 40, dtype=torch.float64, device=positives.device)
    thresholds = positives.double().quantile(quantiles)
    above = len(unlabelled) - torch.searchsorted(unlabelled.double().sort().values, thresholds)
    positive_share = (positives.double()[None] >= thresholds[:, None]).double().mean(dim=1)
    share = above.double() / len(unlabelled)
    ratio = share / positive_share
    error = (share.clamp(min=1 / len(unlabelled)) / len(unlabelled)).sqrt() / positive_share
    error = (error.square() + ratio.square() * (1 - positive_share) / (positive_share * len(positives))).sqrt()
    return float(ratio[(ratio + error).argmin()].clamp(least, most))
