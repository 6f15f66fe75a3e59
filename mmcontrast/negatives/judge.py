"""How probably two items of the data set match after all, before they are put into one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.signals import Compared, pair_signals
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

        def compared(anchor: Tensor, candidate: Tensor, candidates: Tensor) -> Compared:
            return (anchor * candidate).sum(dim=1, keepdim=True), (anchor @ candidates.T).sort(dim=1).values

        of_text = compared(text, other_text, reference[1])
        to_text, to_image = compared(image, other_text, reference[1]), compared(text, other_image, reference[0])
        forth, back = [to_text, of_text], [to_image, of_text]
        if self.calibrator.linked:
            of_image = compared(image, other_image, reference[0])
            forth, back = [*forth, to_image, of_image], [*back, to_text, of_image]
        p = [self.calibrator.probability(pair_signals(view, words)).squeeze(1) for view in (forth, back)]
        return torch.maximum(*p).masked_fill(~(seen & other_seen), 0.0).cpu()
