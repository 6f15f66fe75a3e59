"""Resampling of the geometry of features.

Alignment, uniformity and the gap between modalities are means over pictures or pairs of them, and can be resampled.
Effective rank and hubness cannot: a picture that is drawn twice adds no direction, and sits twice in every list of
neighbours, so that resamples would lie beside the truth and not around it. They have no interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.evaluation.geometry import MAX_ROWS, some_rows
from mmcontrast.evaluation.resampling import Counts, Resampling, Statistics, means

_CHUNK = 1024


def geometry_resampling(
    image_features: Tensor, text_features: Tensor, text_images: Tensor, *, max_rows: int = MAX_ROWS, seed: int = 0
) -> Resampling:
    """Of what `geometry` gives, with the same arguments."""
    images, texts = normalize(image_features.double(), dim=-1), normalize(text_features.double(), dim=-1)
    owner, pictures = text_images.numpy(), len(images)
    squared = (images[text_images] - texts).square().sum(dim=1)
    alignment = means({"alignment": (squared.numpy(), owner)}, pictures)
    sizes = np.bincount(owner, minlength=pictures)
    summed = torch.zeros_like(images).index_add_(0, text_images, texts)  # (n, d), of each picture's captions
    image_rows, text_rows = (some_rows(torch.arange(count), max_rows, seed) for count in (pictures, len(texts)))
    uniformities = {
        "image_uniformity": _Uniformity(images[image_rows], image_rows, pictures),
        "text_uniformity": _Uniformity(texts[text_rows], text_images[text_rows], pictures),
    }

    def statistics(counts: Counts) -> Statistics:
        weights = torch.from_numpy(counts).double()
        found = alignment.statistics(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            found |= {name: uniformity(weights).numpy() for name, uniformity in uniformities.items()}
            gap = (weights @ images).numpy() / pictures - (weights @ summed).numpy() / (counts @ sizes)[:, None]
        return found | {"modality_gap": np.sqrt(np.square(gap).sum(axis=1))}

    # All pairs are computed anew for each chunk of draws: few and large ones.
    return replace(alignment, width=max(1, pictures // 4), statistics=statistics)


class _Uniformity:
    """`uniformity` of (r, d) unit vectors, from how often each of n pictures is drawn.

    Each drawn copy of a picture stands for another picture with captions of its own: rows of one picture meet within
    a copy, and never across two copies of it, where they would be far too alike.

    Args:
        units: (r, d).
        owner: (r,) int64, the picture (0..n-1) of each row.
        pictures: n.
    """

    def __init__(self, units: Tensor, owner: Tensor, pictures: int, t: float = 2.0) -> None:
        self.units, self.owner, self.t = units, owner, t
        self.sizes = torch.bincount(owner, minlength=pictures).double()
        self.within = torch.zeros(pictures, dtype=torch.float64)  # of each picture's own pairs, a row with itself too
        for part in _spans(len(units)):
            same = self._kernel(part) * (owner[part, None] == owner)
            self.within.index_add_(0, owner[part], same.sum(dim=1))

    def _kernel(self, part: slice) -> Tensor:
        squared = (2 - 2 * self.units[part] @ self.units.T).clamp(min=0)
        own = torch.arange(part.start, part.stop)
        squared[own - part.start, own] = 0  # and not what rounding leaves
        return (-self.t * squared).exp()

    def __call__(self, weights: Tensor) -> Tensor:
        """(b, n) to (b,)."""
        rows = weights[:, self.owner]  # (b, r)
        total = torch.zeros(len(weights), dtype=torch.float64)
        for part in _spans(len(self.units)):
            total += ((rows[:, part] @ self._kernel(part)) * rows).sum(dim=1)
        squares = weights.square()
        total += weights @ (self.within - self.sizes) - squares @ self.within
        pairs = rows.sum(dim=1).square() - squares @ self.sizes.square() + weights @ (self.sizes * (self.sizes - 1))
        return (total / pairs).log()


def _spans(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK))
