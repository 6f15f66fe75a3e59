"""The weights of a large batch, where only few of the pairs count otherwise than plainly: found, and listed.

Asking the calibrator about every pair costs many times what the loss does. Most pairs are nowhere near a match, and a
linear score of their cosines and words, fitted in each batch to what the calibrator says of some, tells so for the
price of a product in few dimensions. The calibrator is asked about the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmcontrast.negatives import rules
from mmcontrast.negatives.known import known_pairs
from mmcontrast.negatives.pair_weights import PairWeights, Weights
from mmcontrast.negatives.signals import evenly, pair_signals_at, tile_signals
from mmcontrast.negatives.words import overlap

LISTED = {"none", "duplicates", "oracle", "calibrated"}
"""Rules that leave most pairs as they are."""
MOST_KNOWN = 0.08
"""Share of the pairs that may be known to match, for a list of them to be cheaper than comparing all."""
MOST, MOST_PER_PRIOR = 0.02, 2.0
"""Share of the pairs that the calibrator is asked about, at most, or so many times the prior."""
MISSED = 0.05
"""Share of the calibrator's expected matches that may be among those that are not listed."""
FITTED_ANCHORS, FITTED_CANDIDATES = 32, 4096


@dataclass(frozen=True)
class Screen:
    """A linear score of a pair's similarities, and the value from which on the calibrator is asked."""

    coefficients: list[float]
    threshold: float


class FewWeights:
    """Lists of the pairs of each tile that do not count plainly.

    Args:
        pairs: the rules and the batch.
        known: (2, k) the pairs known to match, sorted, or None.
    """

    def __init__(self, pairs: PairWeights, known: Tensor | None) -> None:
        self.pairs = pairs
        self._known = known
        self.screen = _fit(pairs) if pairs.asks else None
        self._buffers: list[Tensor] = []

    @classmethod
    def of(cls, pairs: PairWeights) -> FewWeights | None:
        """None where a rule weights most pairs, or more pairs are known to match than it pays to list."""
        settings, batch = pairs.settings, pairs.batch
        if not set(settings.rules) <= LISTED or pairs.corrects:
            return None
        known = None
        if pairs.knows:
            most = int(MOST_KNOWN * len(batch) ** 2)
            if "oracle" in settings.rules:
                return None  # classes: each pair in ten, say
            known = known_pairs(batch.keys, batch.keys, most)
            if known is None:
                return None
        return cls(pairs, known)

    def tile(self, rows: slice, columns: slice, cosines: Tensor) -> Weights:
        """What the pictures `rows` and the captions `columns` count."""
        known = self._known_at(rows, columns)
        if self.screen is None:
            return self._weights(known, torch.ones_like(known, dtype=torch.bool), None)
        *rest, score = self._memory(cosines.shape)
        similarities = [cosines, *self._similarities(rows, columns, rest)]
        torch.mul(cosines, self.screen.coefficients[0], out=score)
        for values, factor in zip(similarities[1:], self.screen.coefficients[1:], strict=True):
            score.add_(values, alpha=factor)
        score.view(-1).index_fill_(0, known, torch.inf)
        where = _places_above(score.view(-1), self.screen.threshold)
        at = [values.reshape(-1).index_select(0, where) for values in similarities]
        width = columns.stop - columns.start
        place = where // width + rows.start, where % width + columns.start
        signals = pair_signals_at(at, place, self.pairs.rankings)
        assert self.pairs.calibrator is not None
        image, text = (self.pairs.calibrator.probability(view) for view in signals)
        return self._weights(where, score.view(-1)[where] == torch.inf, (image, text))

    def _similarities(self, rows: slice, columns: slice, out: list[Tensor]) -> list[Tensor]:
        """(r, c) each: the captions, [caption and picture, the pictures,] words."""
        pictures, captions = self.pairs.batch.compared
        sides = [(captions, captions)]
        if self.pairs.rankings.image_image is not None:
            sides += [(captions, pictures), (pictures, pictures)]
        sides.append((self.pairs.vectors, self.pairs.vectors))
        found = [torch.mm(a[rows], b[columns].T, out=memory) for (a, b), memory in zip(sides, out, strict=True)]
        found[-1].clamp_(0, 1)
        return found

    def _memory(self, shape: torch.Size) -> list[Tensor]:
        """Of as many similarities as a pair has: what every tile took anew would lie between the lists that are kept,
        and could not be used for anything else."""
        count = 5 if self.pairs.rankings.image_image is not None else 3
        if not self._buffers or self._buffers[0].numel() < shape.numel():
            self._buffers = [self.pairs.batch.image.new_empty(shape.numel()) for _ in range(count)]
        return [memory[: shape.numel()].view(shape) for memory in self._buffers]

    def _known_at(self, rows: slice, columns: slice) -> Tensor:
        """(k,) places of known pairs in the flattened tile."""
        if self._known is None:
            return torch.zeros(0, dtype=torch.long, device=self.pairs.batch.image.device)
        edges = torch.tensor([rows.start, rows.stop], device=self._known.device)
        first, last = torch.searchsorted(self._known[0].contiguous(), edges).tolist()
        row, column = self._known[:, first:last]
        inside = (column >= columns.start) & (column < columns.stop)
        row, column = row[inside] - rows.start, column[inside] - columns.start
        place: Tensor = row * (columns.stop - columns.start) + column
        return place

    def _weights(self, where: Tensor, known: Tensor, probability: tuple[Tensor, Tensor] | None) -> Weights:
        settings = self.pairs.settings
        masks = settings.known_positives == "mask"
        if probability is None:
            if masks:
                out = torch.full(known.shape, -torch.inf, dtype=torch.float16, device=where.device)
                return Weights(out, out, where=where)
            return Weights(positives=known, text_positives=known, where=where)
        image, text = (rules.attenuation(p, settings.floor, self.pairs.strength) for p in probability)
        image, text = image.half(), text.half()  # both passes of the loss take the rounded ones
        if masks:
            image, text = image.masked_fill(known, -torch.inf), text.masked_fill(known, -torch.inf)
        targets: list[Tensor | None] = [None if masks else known] * 2
        if settings.soft_positives is not None:
            targets = [self.pairs.soften(p, t).half() for p, t in zip(probability, targets, strict=True)]
        return Weights(image, text, targets[0], targets[1], where)


def _places_above(values: Tensor, threshold: float) -> Tensor:
    """(k,) places of the values over a threshold; NumPy finds them in a quarter of torch's time on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() > threshold))
    return (values > threshold).nonzero().squeeze(1)


def _fit(pairs: PairWeights) -> Screen:
    """The score that tells best what the calibrator thinks most likely, from some anchors of the batch."""
    batch = pairs.batch
    count, device = len(batch), batch.image.device
    rows, columns = (evenly(count, most, device) for most in (FITTED_ANCHORS, FITTED_CANDIDATES))
    words = overlap(pairs.vectors[rows], pairs.vectors[columns])
    cosines = batch.image[rows] @ batch.text[columns].T
    signals = tile_signals(batch.compared, words, (rows, columns), cosines, pairs.rankings)
    assert pairs.calibrator is not None
    image, text = (pairs.calibrator.probability(view) for view in signals)
    probability = torch.maximum(image, text.T).flatten()
    width = (signals[0].shape[-1] + 1) // 2  # the similarities come first, then their ranks
    similarities = signals[0][..., :width].flatten(0, 1)
    own = (rows[:, None] == columns).flatten()
    probability, similarities = probability[~own], similarities[~own]
    # The likeliest tenth counts as much as all others: there the score has to tell, and there few pairs are.
    weight = torch.where(probability >= probability.quantile(0.9), 3.0, 1.0)
    design = torch.cat([similarities, torch.ones_like(similarities[:, :1])], dim=1) * weight[:, None]
    wanted = probability.logit(1e-4) * weight
    found = torch.linalg.lstsq(design, wanted[:, None]).solution[:-1, 0]
    score, order = (similarities @ found).sort(descending=True)
    reached = probability[order].cumsum(0)
    needed = int(torch.searchsorted(reached, (1 - MISSED) * reached[-1]))
    most = max(MOST, MOST_PER_PRIOR * pairs.calibrator.prior)
    last = min(needed, int(most * len(score)), len(score) - 1)
    return Screen(found.tolist(), float(score[last]))
