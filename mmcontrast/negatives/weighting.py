"""From a batch to what each of its pairs counts: the rules put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmcontrast.negatives import rules
from mmcontrast.negatives.batch import GlobalBatch
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import anchor_signals, evidence, share_of_matches
from mmcontrast.negatives.known import mask_log_weights
from mmcontrast.negatives.words import WordStatistics

Rule = Literal["none", "duplicates", "text_similarity", "margin", "quantile", "calibrated", "hardness", "oracle"]
EVIDENCE_ANCHORS = 32
LEARN_EVERY = 2
"""Batches from one lesson of the calibrator to the next, once it is ready: half the cost, and features move slowly."""


@dataclass(frozen=True)
class Weights:
    """What the loss takes: log-weights and targets (b, n) of both directions, each None where nothing changes."""

    log_weights: Tensor | None = None
    text_log_weights: Tensor | None = None
    positives: Tensor | None = None
    text_positives: Tensor | None = None


@dataclass(frozen=True)
class RuleSettings:
    """Numbers of the rules; see `negatives` in the config for what they mean.

    Attributes:
        rules: in any order; none is plain InfoNCE.
        known_positives: what becomes of pairs that duplicates or oracle finds.
        soft_positives: probability from which calibrated pairs become targets, or None.
        floor, start, ramp, margin, relative_margin, quantile, beta, oracle, correction: see there.
    """

    rules: Sequence[Rule] = ("duplicates",)
    known_positives: Literal["mask", "positives"] = "mask"
    soft_positives: float | None = None
    floor: float = 0.02
    start: float = 0.1
    ramp: float = 0.1
    margin: float = 0.05
    relative_margin: bool = False
    quantile: float | None = None
    beta: float = 0.2
    oracle: Literal["label", "group"] = "label"
    correction: float = 0.0


class Weighting:
    """Applies the rules to batches, and lets the calibrator learn from them.

    Args:
        settings: which rules, and their numbers.
        calibrator: for the rule calibrated, and for quantile without a share of its own.
        words: for the rules calibrated and text_similarity.
        clusters: for the sampling correction.
        seed: of the anchors that evidence is taken from.
    """

    def __init__(
        self,
        settings: RuleSettings,
        *,
        calibrator: Calibrator | None = None,
        words: WordStatistics | None = None,
        clusters: Clusters | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings
        self.calibrator, self.words, self.clusters = calibrator, words, clusters
        self._generator = torch.Generator().manual_seed(seed)
        self._batches = 0

    @property
    def learns(self) -> bool:
        """Whether the calibrator learns from the next batch, so that siblings are of use to it."""
        return self.calibrator is not None and (not self.calibrator.ready or self._batches % LEARN_EVERY == 0)

    def __call__(self, batch: GlobalBatch, progress: float) -> tuple[Weights, dict[str, Tensor]]:
        """Weights of this rank's rows, and diagnostics; `progress` is the share of the training that is done."""
        settings = self.settings
        diagnostics: dict[str, Tensor] = {}
        if self.words is not None:
            self.words.update(batch.input_ids, batch.attention_mask)
        if self.calibrator is not None and self.learns:
            diagnostics |= self._learn(self.calibrator, batch)
        self._batches += 1
        rows = batch.local_rows()
        known = self._known(batch, rows)
        if known is not None:
            pairs = len(rows) * (len(batch) - 1)
            diagnostics["known_positive_share"] = (known[0].sum() - len(rows)) / max(pairs, 1)
        probability = self._probability(batch, rows, progress)
        extra = settings.known_positives == "positives"
        log_weights = self._log_weights(batch, rows, probability, progress)
        positives: list[Tensor | None] = [None, None]
        if known is not None:
            if extra:
                positives = list(known)
            else:
                masks = [mask_log_weights(k) for k in known]
                log_weights = [m if w is None else m + w for m, w in zip(masks, log_weights, strict=True)]
        if "hardness" in settings.rules:
            log_weights = self._harden(batch, rows, log_weights)
        if probability is not None and settings.soft_positives is not None:
            positives = [self._soften(p, k) for p, k in zip(probability, positives, strict=True)]
        diagnostics |= self._diagnose(batch, rows, log_weights[0], known, probability)
        return Weights(*log_weights, *positives), diagnostics

    def _known(self, batch: GlobalBatch, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        known: tuple[Tensor, Tensor] | None = None
        if "duplicates" in self.settings.rules:
            known = batch.known(rows)
        if "oracle" in self.settings.rules:
            truth = batch.truth(self.settings.oracle, rows) | batch.own(rows)
            known = (truth, truth) if known is None else (known[0] | truth, known[1] | truth)
        return known

    def _strength(self, progress: float) -> float:
        return rules.ramp(progress, self.settings.start, self.settings.ramp)

    def _learn(self, calibrator: Calibrator, batch: GlobalBatch) -> dict[str, Tensor]:
        assert self.words is not None
        anchors = torch.randperm(len(batch), generator=self._generator)[:EVIDENCE_ANCHORS].to(batch.image.device)
        for part in evidence(batch, self.words, anchors, linked=calibrator.linked):
            calibrator.observe(part.positives, part.unlabelled, held_out=part.held_out)
        calibrator.observe_known(share_of_matches(batch, anchors))
        loss = calibrator.step()
        device = batch.image.device  # the log adds them up without waiting for a GPU
        values = {name: torch.tensor(value, device=device) for name, value in calibrator.diagnostics().items()}
        return values if loss is None else values | {"calibrator_loss": loss}

    def _probability(self, batch: GlobalBatch, rows: Tensor, progress: float) -> tuple[Tensor, Tensor] | None:
        """(b, n) of both directions, or None where the calibrator has no say (yet)."""
        ready = self.calibrator is not None and self.calibrator.ready and self._strength(progress) > 0
        if not ready or "calibrated" not in self.settings.rules:
            return None
        assert self.calibrator is not None
        assert self.words is not None
        signals = anchor_signals(batch, self.words, rows, linked=self.calibrator.linked)
        image, text = (self.calibrator.probability(s) for s in signals)
        return image, text

    def _log_weights(
        self, batch: GlobalBatch, rows: Tensor, probability: tuple[Tensor, Tensor] | None, progress: float
    ) -> list[Tensor | None]:
        """The sum of the rules' log-weights in both directions, None where there is none."""
        settings, strength, own = self.settings, self._strength(progress), batch.own(rows)
        parts: list[tuple[Tensor, Tensor]] = []
        if "text_similarity" in settings.rules:
            assert self.words is not None
            tokens = (batch.input_ids, batch.attention_mask)
            weights = rules.text_similarity_log_weights(
                self.words.similarity((tokens[0][rows], tokens[1][rows]), tokens), settings.floor
            )
            parts.append((weights, weights))
        if probability is not None:
            image, text = (rules.attenuation(p, settings.floor, strength) for p in probability)
            parts.append((image, text))
        if strength > 0 and {"margin", "quantile"} & set(settings.rules):
            parts += self._cut(batch, rows, own)
        if settings.correction and self.clusters is not None and len(self.clusters.sizes):
            weights = self._correct(self.clusters, batch, rows, own)
            parts.append((weights, weights))
        if not parts:
            return [None, None]
        return [torch.stack([part[side] for part in parts]).sum(dim=0) for side in (0, 1)]

    def _cut(self, batch: GlobalBatch, rows: Tensor, own: Tensor) -> list[tuple[Tensor, Tensor]]:
        """margin and quantile, which take the closest candidates out."""
        settings = self.settings
        crosses = batch.image[rows] @ batch.text.T, batch.text[rows] @ batch.image.T
        parts: list[tuple[Tensor, Tensor]] = []
        if "margin" in settings.rules:
            true = (batch.image[rows] * batch.text[rows]).sum(dim=1)
            image, text = (
                rules.margin_log_weights(c, true, settings.margin, settings.relative_margin) for c in crosses
            )
            parts.append((image, text))
        if "quantile" in settings.rules:
            share = settings.quantile
            if share is None:
                share = 0.0 if self.calibrator is None else self.calibrator.prior
            same = batch.text[rows] @ batch.text.T
            image, text = (rules.quantile_log_weights(c + same, share, own) for c in crosses)
            parts.append((image, text))
        return parts

    def _correct(self, clusters: Clusters, batch: GlobalBatch, rows: Tensor, own: Tensor) -> Tensor:
        ids = clusters.ids_of(batch.keys.index)
        mine = ids[rows].long()
        total = int(clusters.sizes.sum())
        share = (clusters.sizes.to(mine.device)[mine.clamp(min=0)] - 1).clamp(min=0) / max(total - 1, 1)
        near = (mine[:, None] == ids) & (mine >= 0)[:, None]
        weights = rules.sampling_log_weights(near, share.float(), own, self.settings.correction)
        return weights.masked_fill((mine < 0)[:, None], 0.0)

    def _harden(self, batch: GlobalBatch, rows: Tensor, log_weights: list[Tensor | None]) -> list[Tensor | None]:
        own = batch.own(rows)
        hardened: list[Tensor | None] = []
        for cross, weights in zip(
            (batch.image[rows] @ batch.text.T, batch.text[rows] @ batch.image.T), log_weights, strict=True
        ):
            logits = batch.scale * cross
            out = torch.zeros_like(logits) if weights is None else weights
            hard = rules.hardness_log_weights(
                logits.masked_fill(out == -torch.inf, -torch.inf), self.settings.beta, own
            )
            hardened.append(out + hard.masked_fill(out == -torch.inf, 0.0))
        return hardened

    def _soften(self, probability: Tensor, positives: Tensor | None) -> Tensor:
        """Targets: 1 for known positives, p for pairs over the threshold, 0 for the rest."""
        assert self.settings.soft_positives is not None
        assert self.calibrator is not None
        soft = probability.where(probability >= max(self.settings.soft_positives, self.calibrator.typical), 0.0)
        return soft if positives is None else soft.masked_fill(positives, 1.0)

    def _diagnose(
        self,
        batch: GlobalBatch,
        rows: Tensor,
        log_weights: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
        probability: tuple[Tensor, Tensor] | None,
    ) -> dict[str, Tensor]:
        if log_weights is None:
            return {}
        own = batch.own(rows)
        asked = ~own if known is None else ~own & ~known[0]
        found = {"effective_negatives": rules.effective_negatives(log_weights, ~asked).mean()}
        weights = log_weights[asked]
        found["mean_log_weight"] = weights.clamp(min=-20).mean()
        if probability is not None:
            p = probability[0][asked]
            found["floor_share"] = (1 - p <= self.settings.floor).float().mean()
            found["false_negative_share"] = p.mean()
        return found

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        parts = {"calibrator": self.calibrator, "words": self.words}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return state | {"generator": self._generator.get_state(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._generator.set_state(state["generator"])
        self._batches = state["batches"]
        if self.calibrator is not None:
            self.calibrator.load_state_dict(state["calibrator"])
        if self.words is not None:
            self.words.load_state_dict(state["words"])
