"""How similar pairs are that belong together, and pairs that do not: histograms of cosines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

BINS = 200


@dataclass
class Histogram:
    """Counts of cosines in BINS bins of equal width from -1 to 1, for each kind of pair.

    Attributes:
        counts: kind -> (BINS,) int64.
    """

    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, kind: str, cosines: Tensor) -> None:
        """Count further cosines of a kind."""
        bins = ((cosines.double() + 1) / 2 * BINS).long().clamp(0, BINS - 1)
        counted = torch.bincount(bins.flatten(), minlength=BINS).cpu()
        self.counts[kind] = self.counts[kind] + counted if kind in self.counts else counted

    def mean(self, kind: str) -> float | None:
        """Mean cosine of a kind, to half a bin; None without any pair."""
        counts = self.counts.get(kind)
        if counts is None or not int(counts.sum()):
            return None
        middles = (torch.arange(BINS).double() + 0.5) / BINS * 2 - 1
        return float((middles * counts).sum() / counts.sum())


POSITIVES, NEGATIVES, SUSPECTED = "positives", "negatives", "suspected false negatives"


def histogram(searched: Iterable[tuple[Tensor, Tensor]]) -> Histogram:
    """Of (r, m) cosines and (r, m) bool, true where the pair belongs together; as a `Search` gives them."""
    found = Histogram()
    for cosines, positive in searched:
        there = cosines.isfinite()
        found.add(POSITIVES, cosines[positive & there])
        found.add(NEGATIVES, cosines[~positive & there])
    return found
