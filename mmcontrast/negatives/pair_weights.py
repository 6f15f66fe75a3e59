"""What the pairs of one batch count, rectangle by rectangle, so that no matrix of all pairs need ever exist."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmcontrast.negatives import rules
from mmcontrast.negatives.anchor_statistics import View, blocks, closest_thresholds, strata
from mmcontrast.negatives.batch import GlobalBatch
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.known import known_positives, mask_log_weights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.signals import TIE, Rankings, tile_signals
from mmcontrast.negatives.words import WordStatistics, overlap

DIAGNOSED = 512
"""Anchors that diagnostics are taken of, where there are more."""


@dataclass(frozen=True)
class Weights:
    """Log-weights and targets of both views, each None where nothing changes.

    All (r, c) with pictures in rows, and one tensor for both views where they agree.

    Attributes:
        log_weights: of each caption as a negative of each picture.
        text_log_weights: of each picture as a negative of each caption.
        positives: captions that are further targets of a picture, bool or as weights.
        text_positives: pictures that are further targets of a caption.
        where: (k,) places in the flattened rectangle; then all others are (k,), and other pairs count plainly.
    """

    log_weights: Tensor | None = None
    text_log_weights: Tensor | None = None
    positives: Tensor | None = None
    text_positives: Tensor | None = None
    where: Tensor | None = None


@dataclass(frozen=True)
class _Rectangle:
    """Weights, and what they were made from: known pairs (r, c), and probabilities (r, c) of both views."""

    weights: Weights
    known: Tensor | None
    probability: tuple[Tensor, Tensor] | None


class PairWeights:
    """The rules applied to one batch.

    Args:
        settings: which rules, and their numbers.
        batch: all pairs.
        strength: of what begins in mid-training, 0 to 1.
        calibrator: asked where it is given; for quantile without a share of its own, its prior is.
        words: for the rules that compare captions.
        clusters: for the sampling correction.
    """

    def __init__(
        self,
        settings: RuleSettings,
        batch: GlobalBatch,
        *,
        strength: float,
        calibrator: Calibrator | None = None,
        words: WordStatistics | None = None,
        clusters: Clusters | None = None,
    ) -> None:
        self.settings, self.batch, self.strength = settings, batch, strength
        self.calibrator, self._words, self._clusters = calibrator, words, clusters
        names = set(settings.rules)
        self.asks = "calibrated" in names and strength > 0 and calibrator is not None and calibrator.ready
        self._cuts = strength > 0 and bool({"margin", "quantile"} & names)
        self.corrects = bool(settings.correction) and clusters is not None and bool(len(clusters.sizes))
        self.knows = bool({"duplicates", "oracle"} & names)

    @property
    def changes(self) -> bool:
        """Whether any pair counts otherwise than in the plain loss."""
        names = set(self.settings.rules)
        return bool({"text_similarity", "hardness"} & names) or any((self.asks, self._cuts, self.corrects, self.knows))

    def tile(self, rows: slice | Tensor, columns: slice | Tensor, cosines: Tensor | None = None) -> Weights:
        """What the pictures `rows` and the captions `columns` of the batch count, (r, c).

        Args:
            rows, columns: ranges or numbers (r,), (c,).
            cosines: (r, c) of pictures and captions, where they are at hand.
        """
        return self._rectangle(rows, columns, cosines).weights if self.changes else Weights()

    def _rectangle(self, rows: slice | Tensor, columns: slice | Tensor, cosines: Tensor | None = None) -> _Rectangle:
        if cosines is None:
            cosines = self.batch.image[rows] @ self.batch.text[columns].T
        probability = self._probability(rows, columns, cosines)
        known = self._known(rows, columns)
        image, text = self._log_weights(rows, columns, cosines, probability, known)
        if "hardness" in self.settings.rules:
            image, text = self._harden(rows, columns, cosines, image, text)
        targets = known if self.settings.known_positives == "positives" else None
        soft: tuple[Tensor | None, Tensor | None] = targets, targets
        if probability is not None and self.settings.soft_positives is not None:
            soft = self.soften(probability[0], targets), self.soften(probability[1], targets)
        return _Rectangle(Weights(image, text, *soft), known, probability)

    @cached_property
    def _whole(self) -> _Rectangle:
        """All pairs of a small batch; the loss and the diagnostics take the same."""
        everyone = slice(0, len(self.batch))
        return self._rectangle(everyone, everyone)

    def dense(self) -> Weights:
        """Of all pairs at once, but the captions' view with captions in rows."""
        if not self.changes:
            return Weights()
        found = self._whole.weights
        text = (None if x is None else x.T for x in (found.text_log_weights, found.text_positives))
        log_weights, positives = text
        return Weights(found.log_weights, log_weights, found.positives, positives)

    # The rules

    def _known(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor | None:
        """(r, c) pairs that duplicates or the oracle finds, own ones among them; the same in both views."""
        if not self.knows:
            return None
        keys, names = self.batch.keys, self.settings.rules
        known = self.batch.own(rows, columns)
        if "duplicates" in names:
            known = known_positives(keys.take(rows), keys.take(columns))
        return known | self.batch.truth(self.settings.oracle, rows, columns) if "oracle" in names else known

    def _probability(
        self, rows: slice | Tensor, columns: slice | Tensor, cosines: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """(r, c) of both views, or None where the calibrator has no say (yet)."""
        if not self.asks:
            return None
        assert self.calibrator is not None
        signals = tile_signals(
            self.batch.compared,
            overlap(self.vectors[rows], self.vectors[columns]),
            (rows, columns),
            cosines,
            self.rankings,
        )
        image, text = (self.calibrator.probability(s) for s in signals)
        return image, text.T

    def _log_weights(
        self,
        rows: slice | Tensor,
        columns: slice | Tensor,
        cosines: Tensor,
        probability: tuple[Tensor, Tensor] | None,
        known: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The sum of the rules' log-weights in both views, None where there is none."""
        settings = self.settings
        parts: list[tuple[Tensor, Tensor]] = []
        if "text_similarity" in settings.rules:
            words = overlap(self.vectors[rows], self.vectors[columns])
            weights = rules.text_similarity_log_weights(words, settings.floor)
            parts.append((weights, weights))
        if probability is not None:
            image, text = (rules.attenuation(p, settings.floor, self.strength) for p in probability)
            parts.append((image, text))
        if self._cuts:
            parts += self._cut(rows, columns, cosines)
        if self.corrects:
            parts.append(self._correct(rows, columns))
        if known is not None and settings.known_positives == "mask":
            mask = mask_log_weights(known)
            parts.append((mask, mask))
        if not parts:
            return None, None
        image = _sum([part[0] for part in parts])
        agree = all(part[0] is part[1] for part in parts)
        return image, image if agree else _sum([part[1] for part in parts])

    def _cut(self, rows: slice | Tensor, columns: slice | Tensor, cosines: Tensor) -> list[tuple[Tensor, Tensor]]:
        """margin and quantile, which take the closest candidates out."""
        settings, names = self.settings, self.settings.rules
        parts: list[tuple[Tensor, Tensor]] = []
        if "margin" in names:
            limit = (self.batch.image * self.batch.text).sum(dim=1)
            image, text = (
                rules.margin_log_weights(c, true, settings.margin, settings.relative_margin)
                for c, true in ((cosines, limit[rows]), (cosines.T, limit[columns]))
            )
            parts.append((image, text.T))
        if "quantile" in names and self._closest:
            similarity = cosines + self.batch.text[rows] @ self.batch.text[columns].T
            own = self.batch.own(rows, columns)
            thresholds = self._thresholds
            image = similarity >= thresholds["image"][rows][:, None] - TIE
            text = similarity >= thresholds["text"][columns][None] - TIE
            parts.append((mask_log_weights(image & ~own), mask_log_weights(text & ~own)))
        return parts

    def _correct(self, rows: slice | Tensor, columns: slice | Tensor) -> tuple[Tensor, Tensor]:
        ids, strata = self._strata
        near = (ids[rows][:, None] == ids[columns]) & (ids[rows] >= 0)[:, None]
        own = self.batch.own(rows, columns)
        image = torch.where(near, strata[0][rows][:, None], strata[1][rows][:, None]).masked_fill(own, 0.0)
        text = torch.where(near, strata[0][columns][None], strata[1][columns][None]).masked_fill(own, 0.0)
        return image, text

    def _harden(
        self, rows: slice | Tensor, columns: slice | Tensor, cosines: Tensor, image: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        tilted = self.settings.beta * self.batch.scale * cosines
        means = self._means
        own = self.batch.own(rows, columns)
        hard = (
            (tilted - means["image"][rows][:, None]).masked_fill(own, 0.0),
            (tilted - means["text"][columns][None]).masked_fill(own, 0.0),
        )
        first, second = (h if w is None else w + h for w, h in zip((image, text), hard, strict=True))
        return first, second

    def soften(self, probability: Tensor, known: Tensor | None) -> Tensor:
        """Targets: 1 for known positives, p for pairs over the threshold, 0 for the rest."""
        assert self.settings.soft_positives is not None
        assert self.calibrator is not None
        soft = probability.where(probability >= max(self.settings.soft_positives, self.calibrator.typical), 0.0)
        return soft if known is None else soft.masked_fill(known, 1.0)

    # What is known of each anchor before any tile is asked for

    @cached_property
    def vectors(self) -> Tensor:
        """(n, w) of the captions, for `overlap`."""
        assert self._words is not None
        return self._words.vectors(self.batch.input_ids, self.batch.attention_mask)

    @cached_property
    def rankings(self) -> Rankings:
        """What the calibrator's ranks are taken among."""
        assert self.calibrator is not None
        return Rankings.of(self.batch.image, self.batch.text, self.batch.compared, linked=self.calibrator.linked)

    @cached_property
    def _closest(self) -> int:
        """How many of its candidates quantile takes from each anchor."""
        share = self.settings.quantile
        if share is None:
            share = 0.0 if self.calibrator is None else self.calibrator.prior
        return round(share * (len(self.batch) - 1))

    @cached_property
    def _thresholds(self) -> dict[View, Tensor]:
        return closest_thresholds(self.batch, self._closest)

    @cached_property
    def _strata(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert self._clusters is not None
        return strata(self.batch, self._clusters, self.settings.correction)

    @cached_property
    def _means(self) -> dict[View, Tensor]:
        """(n,) log of the mean of e^(beta logit) over the negatives of each anchor."""
        count, like, everyone = len(self.batch), self.batch.image, slice(0, len(self.batch))
        rows_sum, rows_count = like.new_empty(count), like.new_empty(count)
        columns_sum, columns_count = like.new_full((count,), -torch.inf), like.new_zeros(count)
        for rows in blocks(count):
            cosines = self.batch.image[rows] @ self.batch.text.T
            # Only who is out matters, and the calibrator's floor leaves everyone in.
            weights = self._log_weights(rows, everyone, cosines, None, self._known(rows, everyone))
            tilted = self.settings.beta * self.batch.scale * cosines
            tilted = tilted.masked_fill(self.batch.own(rows, everyone), -torch.inf)
            image, text = (tilted if w is None else tilted.masked_fill(w == -torch.inf, -torch.inf) for w in weights)
            rows_sum[rows], rows_count[rows] = rules.sum_tilted(image, dim=1)
            total, number = rules.sum_tilted(text, dim=0)
            columns_sum, columns_count = torch.logaddexp(columns_sum, total), columns_count + number
        return {
            "image": rules.log_mean(rows_sum, rows_count),
            "text": rules.log_mean(columns_sum, columns_count),
        }

    # What is logged

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars of this rank's pictures, or of some of them, and all captions."""
        if not self.changes:
            return {}
        rows = self.batch.local_rows()
        rows = rows[:: -(-len(rows) // DIAGNOSED)]
        everyone = slice(0, len(self.batch))
        own = self.batch.own(rows, everyone)
        part = self._whole if len(rows) == len(self.batch) else self._rectangle(rows, everyone)
        known, probability, log_weights = part.known, part.probability, part.weights.log_weights
        found: dict[str, Tensor] = {}
        if known is not None:
            found["known_positive_share"] = (known.sum() - len(rows)) / max(len(rows) * (len(self.batch) - 1), 1)
        if log_weights is None:
            return found
        asked = ~own if known is None else ~own & ~known
        found["effective_negatives"] = rules.effective_negatives(log_weights, ~asked).mean()
        found["mean_log_weight"] = log_weights[asked].clamp(min=-20).mean()
        if probability is not None:
            p = probability[0][asked]
            found["floor_share"] = (1 - p <= self.settings.floor).float().mean()
            found["false_negative_share"] = p.mean()
        return found


def _sum(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)
