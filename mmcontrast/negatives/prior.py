"""How many of the unlabelled pairs match after all, estimated from scores of matching and of unlabelled pairs."""

from __future__ import annotations

import torch
from torch import Tensor

TAIL = (0.5, 0.7)


def estimate_prior(positives: Tensor, unlabelled: Tensor, *, least: float = 1e-4, most: float = 0.5) -> float:
    """Share of positives among the unlabelled: the ratio of the two samples' upper tails.

    Above any threshold the unlabelled hold at least pi times the positives' share, with equality where no negative
    reaches: pi <= share of U above t / share of P above t (Scott 2015; Garg et al. 2021 take the least ratio). Here it
    is the mean over thresholds between the positives' median and their 70% quantile. Higher up the known matches, which
    are the most alike, outnumber the unknown ones, so that the least ratio is too small; lower down negatives mix in.
    It is an upper bound, and a loose one where scores hardly tell matches from the rest.

    Args:
        positives: (p,) scores of pairs that match.
        unlabelled: (u,) scores of pairs drawn at random.
        least, most: bounds of the answer.
    """
    quantiles = torch.linspace(*TAIL, 9, dtype=torch.float64, device=positives.device)
    thresholds = positives.double().quantile(quantiles)
    above = len(unlabelled) - torch.searchsorted(unlabelled.double().sort().values, thresholds)
    share = (positives.double()[None] >= thresholds[:, None]).double().mean(dim=1)
    return float((above / len(unlabelled) / share).mean().clamp(least, most))
