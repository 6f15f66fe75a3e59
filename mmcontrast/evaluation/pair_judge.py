"""How probably caption j fits picture i after all, judged for pairs of an embedded data set, without training on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmcontrast.data.keys import caption_key, text_key
from mmcontrast.evaluation.tasks import EmbeddedData
from mmcontrast.negatives.batch import GlobalBatch, Siblings
from mmcontrast.negatives.calibrator import LEAST_POSITIVES, Calibrator
from mmcontrast.negatives.evidence import LINKED, evidence, linked_share, new_calibrator
from mmcontrast.negatives.known import MatchKeys, known_positives
from mmcontrast.negatives.signals import pair_signals
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.types import NO_KEY, Tokens

Tokenize = Callable[[list[str]], Tokens]
STEPS = 300
BATCH = 256
"""Pairs of a batch of the fit."""
_ANCHORS = 16
_SIBLINGS = 48  # of a batch: each costs four sorted rows of similarities


class CaptionedRows:
    """n pictures with all their captions, from which batches are drawn.

    Attributes:
        image: (n, d) float32 features.
        captions: (n,) int64, place of one drawn caption of each picture among all m captions.
        text: (n, d) features of the drawn captions.
        tokens: ids and mask (n, t) of the drawn captions.
        siblings: how many pictures have a caption that differs from the drawn one.
    """

    def __init__(self, data: EmbeddedData, tokenize: Tokenize, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._texts, self.image = data.text_features, data.image_features
        tokens = tokenize(data.captions)
        self._ids, self._mask = tokens.input_ids.cpu(), tokens.attention_mask.cpu()
        self._caption_keys = torch.tensor([caption_key(caption) for caption in data.captions])
        counts = data.text_images.bincount(minlength=len(data.positions))
        starts = counts.cumsum(0) - counts
        width = torch.arange(int(counts.max()))
        self._places = (starts[:, None] + width).where(width < counts[:, None], -1)  # n c
        all_keys = self._caption_keys[self._places].masked_fill(self._places < 0, NO_KEY)
        groups = torch.tensor([NO_KEY if group is None else text_key(group) for group in data.groups])
        rows = torch.arange(len(counts))
        self.captions, siblings = self._draw(rows)
        self.siblings = int((siblings >= 0).sum())
        self.text, self.tokens = self._texts[self.captions], (self._ids[self.captions], self._mask[self.captions])
        self._keys = MatchKeys(rows, self._caption_keys[self.captions], all_keys, groups)

    def __len__(self) -> int:
        return len(self.image)

    def known(self, rows: Tensor) -> Tensor:
        """(r, n) bool: pictures of some rows and drawn captions of all that are known to match, itself too."""
        return known_positives(self._keys.take(rows), self._keys)

    def linked_share(self) -> float:
        """`negatives.evidence.linked_share` of some of them."""
        return linked_share(self._keys.take(torch.randperm(len(self), generator=self._generator)[:BATCH]))

    def batch(self, size: int, *, siblings: bool = True) -> GlobalBatch:
        """A random batch with captions drawn anew, and as siblings different captions of some pictures."""
        rows = torch.randperm(len(self), generator=self._generator)[:size]
        drawn, others = self._draw(rows)
        keys = self._keys.take(rows)
        there = (others >= 0).nonzero().flatten()[:_SIBLINGS]
        more = others[there]
        return GlobalBatch(
            image=self.image[rows],
            text=self._texts[drawn],
            scale=torch.ones(()),
            keys=MatchKeys(keys.index, self._caption_keys[drawn], keys.caption_keys, keys.group_key),
            label=torch.full((len(rows),), -1),
            input_ids=self._ids[drawn],
            attention_mask=self._mask[drawn],
            local=slice(0, len(rows)),
            siblings=Siblings(self._texts[more], self._ids[more], self._mask[more], there) if siblings else None,
        )

    def _draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(r,) a random caption of each row, and (r,) another one of different words, or -1."""
        places = self._places[rows]
        chance = torch.rand(places.shape, generator=self._generator).masked_fill(places < 0, -1)
        first = chance.argmax(dim=1, keepdim=True)
        drawn = places.gather(1, first)
        equal = self._caption_keys[places] == self._caption_keys[drawn]  # place -1 is masked already
        other = chance.masked_fill(equal, -1)
        second = other.argmax(dim=1, keepdim=True)
        sibling = places.gather(1, second).where(other.gather(1, second) >= 0, -1)
        return drawn[:, 0], sibling[:, 0]


class PairJudge:
    """Scores of pairs (picture i, caption j).

    Where enough pictures have several captions, the score is the probability of a calibrator that is fitted here and
    now on random batches, as training does it (see `negatives.evidence`). Elsewhere it is the lower one of the two
    ranks of the cosines (picture i with caption j, caption i with caption j) among the anchor's own, 0 to 1: that
    orders the pairs, but is no probability.

    Args:
        rows: what is judged.
        vocabulary: different tokens.
        seed: of the calibrator and of the random pairs.
        calibrator: a fitted one (that of a run); None fits one.
        words: word statistics that go with it; None counts the captions here.
        reference: random pairs that ranks are taken among: as many as a batch has where the calibrator comes from.
    """

    def __init__(
        self,
        rows: CaptionedRows,
        vocabulary: int,
        *,
        seed: int = 0,
        calibrator: Calibrator | None = None,
        words: WordStatistics | None = None,
        reference: int = BATCH,
    ) -> None:
        self.rows = rows
        self._words = words or WordStatistics(vocabulary)
        if words is None:
            self._words.update(*rows.tokens)
        self._reference = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:reference]
        self.calibrator = calibrator or self._fit(seed)

    @property
    def calibrated(self) -> bool:
        """Whether scores are probabilities."""
        return self.calibrator is not None

    def scores(self, anchors: Tensor) -> Tensor:
        """(a, n) scores of the pictures of some rows with all drawn captions."""
        rows = self.rows
        image, text = rows.image[anchors], rows.text[anchors]
        similarities = [image @ rows.text.T, text @ rows.text.T]
        if self.calibrator is None:
            return torch.minimum(*map(_share_below, similarities))
        if self.calibrator.linked:
            similarities += [text @ rows.image.T, image @ rows.image.T]
        ids, mask = rows.tokens
        words = self._words.similarity((ids[anchors], mask[anchors]), rows.tokens)
        own = anchors[:, None] == self._reference
        compared = [(x, x[:, self._reference].masked_fill(own, -torch.inf).sort(dim=1).values) for x in similarities]
        return self.calibrator.probability(pair_signals(compared, words))

    def _fit(self, seed: int) -> Calibrator | None:
        """A calibrator of these rows, or None where too few pictures have several captions."""
        if self.rows.siblings < 2 * LEAST_POSITIVES:
            return None
        linked = self.rows.linked_share() >= LINKED
        calibrator = new_calibrator(linked, seed=seed)
        anchors = torch.arange(_ANCHORS)  # of a shuffled batch
        for _ in range(STEPS):
            batch = self.rows.batch(BATCH, siblings=not linked)
            for part in evidence(batch, self._words, anchors, linked=linked):
                calibrator.observe(part.positives, part.unlabelled, held_out=part.held_out)
            calibrator.step()
        return calibrator if calibrator.ready else None


def _share_below(values: Tensor) -> Tensor:
    """(r, m) values to the share of their own row that is below each, 0 to 1."""
    ordered = values.sort(dim=1).values
    return torch.searchsorted(ordered, values.contiguous()) / values.shape[1]
