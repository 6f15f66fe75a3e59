"""How probably two items of the data set match after all, before they are put into one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.signals import pair_signals
from mmcontrast.negatives.words import WordStatistics

REFERENCE = 256
PIECE = 1 << 13


class StoredPairJudge:
    """Asks the calibrator about pairs of items by the features that the clusters remember of them.

    Args:
        clusters: of the run.
        calibrator, words: of the run's weighting.
        tokens: rows (m,) to ids and mask (m, t) of a caption of each.
    """

    def __init__(
        self,
        clusters: Clusters,
        calibrator: Calibrator,
        words: WordStatistics,
        tokens: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> None:
        self.clusters, self.calibrator, self.words, self.tokens = clusters, calibrator, words, tokens

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor | None:
        """(m,) the higher probability of "caption j fits picture i" and the reverse; None while nothing is known.

        Pairs of which a feature is not remembered get 0.
        """
        if not self.calibrator.ready:
            return None
        generator = torch.Generator().manual_seed(self.clusters.seed)
        others = torch.randint(self.clusters.num_items, (REFERENCE,), generator=generator)
        image, text, seen = self.clusters.stored(others)
        if int(seen.sum()) < 2:
            return None
        reference = (image[seen], text[seen])
        pieces = zip(torch.split(first, PIECE), torch.split(second, PIECE), strict=True)
        return torch.cat([self._judge(i, j, reference) for i, j in pieces]) if len(first) else torch.zeros(0)

    def _judge(self, first: Tensor, second: Tensor, reference: tuple[Tensor, Tensor]) -> Tensor:
        image, text, seen = self.clusters.stored(first)
        other_image, other_text, other_seen = self.clusters.stored(second)
        words = self.words.pairwise(self.tokens(first), self.tokens(second)).to(image.device)[:, None]
        same = (text * other_text).sum(dim=1, keepdim=True)
        text_reference = (text @ reference[1].T).sort(dim=1).values

        def probability(anchor: Tensor, candidate: Tensor, candidates: Tensor) -> Tensor:
            cross = (anchor * candidate).sum(dim=1, keepdim=True)
            cross_reference = (anchor @ candidates.T).sort(dim=1).values
            signals = pair_signals(cross, same, words, cross_reference, text_reference)
            return self.calibrator.probability(signals).squeeze(1)

        forth = probability(image, other_text, reference[1])
        back = probability(text, other_image, reference[0])
        return torch.maximum(forth, back).masked_fill(~(seen & other_seen), 0.0).cpu()
