"""First centroids: twice as many as needed by k-means++, then the most useless leave."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .nearest import two_nearest

OVERSAMPLING = 2  # plain k-means++ leaves some true clusters without a centroid; twice as many rarely do
ROUNDS = 6  # of removing the surplus
BLOCK = 2048  # candidates of k-means++ at once, at most
EQUAL = 1e-6  # cosine distances below this are rounding


def first_centroids(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k unit rows to start k-means on x from.

    Args:
        x: (n, d) float32 unit rows on any device, k <= n.
        k: how many.
        generator: on the CPU, so that all devices draw the same.
    """
    return prune(x, plus_plus(x, min(len(x), OVERSAMPLING * k), generator), k)


def plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Choose k rows of x (n, d), unit rows, each with odds 1 - cos to the nearest one chosen before it.

    On the sphere that is half the squared distance, so this is D^2 sampling (Arthur and Vassilvitskii 2007). One by
    one it would take k passes over x. Instead a block is drawn from the odds of the last pass, and each candidate is
    kept with probability (odds now) / (odds then): rejection sampling (Cohen-Addad et al. 2020), after which the kept
    ones are distributed as if they had been drawn one by one. A few dozen passes, each a matrix product.
    """
    chosen = torch.randint(len(x), (1,), generator=generator)
    odds = _odds(x, chosen)
    while len(chosen) < k:
        candidates = _draw(odds, min(BLOCK, max(8, len(chosen) // 2)), generator)
        if candidates is None:  # every row equals a chosen one
            chosen = torch.cat([chosen, torch.randint(len(x), (k - len(chosen),), generator=generator)])
            break
        new = candidates[_thin(x[candidates.to(x.device)], odds[candidates], generator)][: k - len(chosen)]
        chosen = torch.cat([chosen, new])
        odds = torch.minimum(odds, _odds(x, new))
    return x[chosen.to(x.device)]


def prune(x: Tensor, centroids: Tensor, k: int) -> Tensor:
    """Remove centroids until k are left, each time those whose points lose least by going to their second nearest.

    Of two centroids that are second nearest to each other's points only the more useless leaves in a round, or both
    halves of one true cluster could go. In the last round the surplus leaves anyway.
    """
    for remaining in reversed(range(ROUNDS)):
        surplus = len(centroids) - k
        if surplus == 0:
            break
        sums = torch.zeros_like(centroids)
        first, second, gap = two_nearest(x, centroids, sums)
        loss = torch.bincount(first.cpu(), weights=gap.double().cpu(), minlength=len(centroids)).to(x.device)
        leaves = torch.zeros(len(centroids), dtype=torch.bool, device=x.device)
        leaves[loss.argsort(stable=True)[:surplus]] = True
        if remaining:
            both = leaves[first] & leaves[second]
            pair = torch.stack([first[both], second[both]])
            leaves[torch.where(loss[pair[0]] > loss[pair[1]], pair[0], pair[1])] = False
        centroids = towards(sums, centroids)[~leaves]
    return centroids


def towards(sums: Tensor, otherwise: Tensor) -> Tensor:
    """Unit rows in the direction of `sums` (k, d); where a sum vanishes, the row of `otherwise`."""
    return torch.where(sums.norm(dim=1, keepdim=True) > EQUAL, F.normalize(sums, dim=1), otherwise)


def _odds(x: Tensor, chosen: Tensor) -> Tensor:
    """(n,) distances 1 - cos to the nearest chosen row, on the CPU; rounding errors count as zero."""
    if len(chosen) == 0:
        return torch.full((len(x),), torch.inf)
    columns = x[chosen.to(x.device)].T
    size = max(256, (1 << (26 if x.is_cuda else 20)) // len(chosen))
    odds = torch.cat([1 - (rows @ columns).amax(1) for rows in torch.split(x, size)]).cpu()
    return odds.where(odds > EQUAL, torch.zeros(()))


def _draw(odds: Tensor, count: int, generator: torch.Generator) -> Tensor | None:
    """Positions (count,), independent, each with its odds; None where all odds are zero."""
    cumulative = odds.double().cumsum(0)
    total = cumulative[-1]
    if total <= 0:
        return None
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * total
    return torch.searchsorted(cumulative, drawn, right=True).clamp_max_(int(odds.nonzero()[-1]))


def _thin(candidates: Tensor, odds: Tensor, generator: torch.Generator) -> Tensor:
    """Positions of the candidates (c, d) that are kept, in the order in which they were drawn."""
    distance = (1 - candidates @ candidates.T).cpu().numpy()
    level = (torch.rand(len(odds), generator=generator) * odds).numpy()
    now, kept = odds.numpy().copy(), []
    for i in range(len(now)):
        if now[i] > max(level[i], EQUAL):
            kept.append(i)
            now = now.clip(max=distance[i])
    return torch.tensor(kept, dtype=torch.long)
