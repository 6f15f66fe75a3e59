"""From batches to what their pairs count: the rules put together, and the calibrator's lessons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcontrast.negatives import rules
from mmcontrast.negatives.batch import GlobalBatch
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import evidence, share_of_matches
from mmcontrast.negatives.pair_weights import PairWeights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.words import WordStatistics

EVIDENCE_ANCHORS = 32
LEARN_EVERY = 2
"""Batches from one lesson of the calibrator to the next, once it is ready: half the cost, and features move slowly."""


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

    def __call__(self, batch: GlobalBatch, progress: float) -> tuple[PairWeights, dict[str, Tensor]]:
        """Weights of the batch's pairs, and diagnostics; `progress` is the share of the training that is done."""
        diagnostics: dict[str, Tensor] = {}
        if self.words is not None:
            self.words.update(batch.input_ids, batch.attention_mask)
        if self.calibrator is not None and self.learns:
            diagnostics |= self._learn(self.calibrator, batch)
        self._batches += 1
        weights = PairWeights(
            self.settings,
            batch,
            strength=rules.ramp(progress, self.settings.start, self.settings.ramp),
            calibrator=self.calibrator,
            words=self.words,
            clusters=self.clusters,
        )
        return weights, diagnostics | weights.diagnostics()

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
