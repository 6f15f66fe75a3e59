"""Positives of synthetic scenes by their exact truth: whether a caption is true of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcontrast.data.scenes import SceneSource, positives
from mmcontrast.evaluation.positives import PositiveKeys


@dataclass(frozen=True)
class TruthKeys(PositiveKeys):
    """Positives that no equality of keys can express.

    Attributes:
        truth: (n, m) bool, caption j is true of picture i.
    """

    truth: Tensor

    @classmethod
    def of(cls, source: SceneSource) -> TruthKeys:
        """The truth about all pictures and captions of a source, in their order."""
        truth = torch.from_numpy(positives(source)[0].T.copy())
        n, m = truth.shape
        return cls(torch.zeros(n, 0, dtype=torch.int64), torch.zeros(m, dtype=torch.int64), truth)

    def image_queries(self, start: int, stop: int) -> Tensor:
        """(stop - start, m) bool."""
        return self.truth[start:stop]

    def text_queries(self, start: int, stop: int) -> Tensor:
        """(stop - start, n) bool."""
        return self.truth[:, start:stop].T

    def pairs(self, limit: int) -> tuple[Tensor, Tensor] | None:
        """All pairs of positives, or None where there are more than `limit`."""
        pictures, texts = self.truth.nonzero(as_tuple=True)
        return None if len(pictures) > limit else (pictures, texts)
