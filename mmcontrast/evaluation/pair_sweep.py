"""One pass over all pairs of a data set: sums, and the few pairs that are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcontrast.evaluation.pair_judge import CaptionedRows, PairJudge
from mmcontrast.evaluation.similarities import NEGATIVES, POSITIVES, SUSPECTED, Histogram

CLOSEST = 0.01
"""Without calibration: share of each anchor's pairs that is suspect."""
IMPROBABLE = 0.1
_PER_ANCHOR = 6
_JUDGED_WITH_TRUTH = 2_000_000
_CHUNK = 128


@dataclass(frozen=True)
class JudgedPair:
    """Picture i and caption j, which a contrastive loss takes for a negative.

    Attributes:
        image, other: rows i and j, positions among the n pictures of the data.
        caption, other_caption: places of their captions among all captions; the judged one is `other_caption`.
        score: probability that the caption fits the picture, or without calibration a mere rank.
        cosine: of picture i and caption j.
        same: whether labels (or groups) call them the same, or None where they say nothing.
    """

    image: int
    caption: int
    other: int
    other_caption: int
    score: float
    cosine: float
    same: bool | None


@dataclass
class Sweep:
    """What one pass over all pairs leaves: sums, candidates for the galleries, and a part with its truth."""

    pairs: int = 0
    known: int = 0
    believed: float = 0.0
    true: int = 0
    probable: list[JudgedPair] = field(default_factory=list)
    undecided: list[JudgedPair] = field(default_factory=list)
    hard: list[JudgedPair] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    truths: list[Tensor] = field(default_factory=list)
    cosines: Histogram = field(default_factory=Histogram)


def sweep_pairs(judge: PairJudge, classes: Tensor | None, seed: int) -> Sweep:
    """Judge every picture with every caption.

    Args:
        judge: gives the scores.
        classes: (n,) int64 truth, -1 where there is none, or None.
        seed: of the order in which anchors come.
    """
    pairs, sweep = judge.rows, Sweep()
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    least, most = (0.5, IMPROBABLE) if judge.calibrated else (1 - CLOSEST, 0.5)
    for start in range(0, len(order), _CHUNK):
        rows = order[start : start + _CHUNK]
        scores, known = judge.scores(rows), pairs.known(rows)
        cosines = pairs.image[rows] @ pairs.text.T
        own = torch.arange(len(pairs)) == rows[:, None]
        same = None if classes is None else same_class(classes[rows], classes)
        open_ = ~known  # a row is known to match itself
        sweep.pairs += own.numel() - len(rows)
        sweep.known += int(known.sum()) - len(rows)
        sweep.believed += float(scores[open_].double().sum())
        if same is not None:
            sweep.true += int(same[open_].sum())
            if sum(map(len, sweep.scores)) < _JUDGED_WITH_TRUTH:
                sweep.scores.append(scores[open_])
                sweep.truths.append(same[open_])
        suspected = open_ & (scores >= least)
        for kind, pairs_of in ((POSITIVES, known), (NEGATIVES, open_ & ~suspected), (SUSPECTED, suspected)):
            sweep.cosines.add(kind, cosines[pairs_of])
        # Probabilities tie near 1: among equals the pair that the loss pushes hardest, the closest one, comes first.
        collect = _Collector(pairs, rows, scores, cosines, same)
        sweep.probable += collect(scores + 1e-4 * cosines, suspected)
        sweep.undecided += collect(-(scores - 0.5).abs(), open_ & (scores > 0.35) & (scores < 0.65))
        sweep.hard += collect(cosines, open_ & (scores < most))
    sweep.probable.sort(key=lambda pair: (-round(pair.score, 3), -pair.cosine))
    sweep.hard.sort(key=lambda pair: -pair.cosine)
    return sweep


@dataclass(frozen=True)
class _Collector:
    """The best few pairs of each anchor of a chunk."""

    pairs: CaptionedRows
    rows: Tensor
    scores: Tensor
    cosines: Tensor
    same: Tensor | None

    def __call__(self, key: Tensor, allowed: Tensor) -> list[JudgedPair]:
        best = key.masked_fill(~allowed, -torch.inf).topk(min(_PER_ANCHOR, key.shape[1]), dim=1)
        places = best.values.isfinite().nonzero()
        return [self._pair(a, int(best.indices[a, k])) for a, k in places.tolist()]

    def _pair(self, anchor: int, other: int) -> JudgedPair:
        row = int(self.rows[anchor])
        return JudgedPair(
            image=row,
            caption=int(self.pairs.captions[row]),
            other=other,
            other_caption=int(self.pairs.captions[other]),
            score=float(self.scores[anchor, other]),
            cosine=float(self.cosines[anchor, other]),
            same=None if self.same is None else bool(self.same[anchor, other]),
        )


def varied(candidates: Sequence[JudgedPair], captions: Sequence[str], count: int) -> list[JudgedPair]:
    """The first `count` that do not repeat a picture, nor a caption: ten times the same sentence teaches nothing."""
    chosen: list[JudgedPair] = []
    seen: set[object] = set()
    for pair in candidates:
        parts: set[object] = {pair.image, pair.other, captions[pair.caption], captions[pair.other_caption]}
        if parts & seen:
            continue
        seen |= parts
        chosen.append(pair)
        if len(chosen) == count:
            break
    return chosen


def shuffled(pairs: list[JudgedPair], seed: int) -> list[JudgedPair]:
    """The pairs in random order."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    return [pairs[place] for place in order.tolist()]


def same_class(some: Tensor, classes: Tensor) -> Tensor:
    """(r, n) bool of (r,) and (n,) classes: the same, and known at all."""
    return (some[:, None] == classes) & (classes >= 0)
