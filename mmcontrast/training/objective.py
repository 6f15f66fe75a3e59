"""Where features, weights of negatives and the loss meet, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mmcontrast import distributed
from mmcontrast.losses import Tiles, sigmoid_loss, symmetric_info_nce, tiled_info_nce, tiled_sigmoid_loss
from mmcontrast.losses.kernel import LossKernel
from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.few_weights import FewWeights
from mmcontrast.negatives.pair_weights import PairWeights, Weights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.types import Features, PairBatch

LossName = Literal["info_nce", "sigmoid"]
TILED_FROM = 1024
"""Pairs of a batch from which on the loss is computed in tiles; of fewer, one tile would hold them all."""
KEPT_BYTES = 1 << 28
"""Similarities that are kept for the backward pass instead of being computed again, at most: 8192 x 8192 of them."""


@dataclass(frozen=True)
class ObjectiveOutput:
    """A scalar loss with gradient, and detached scalars to log (tensors: reading them would wait for the GPU)."""

    loss: Tensor
    diagnostics: dict[str, Tensor]


class ContrastiveObjective:
    """Gather features, decide how much each negative counts, and compute the loss of the local rows.

    Args:
        loss: "info_nce" (symmetric) or "sigmoid".
        weighting: rules about negatives; None treats known positives apart and nothing else.
        clusters: told of the features of every batch, for guided batches.
        kernel: what computes the tiles of large batches.

    Attributes:
        progress: share of the training that is done, set by the trainer before each step.
    """

    def __init__(
        self,
        loss: LossName = "info_nce",
        weighting: Weighting | None = None,
        clusters: Clusters | None = None,
        kernel: LossKernel = "torch",
    ) -> None:
        self.loss, self.kernel = loss, kernel
        self.weighting = Weighting(RuleSettings()) if weighting is None else weighting
        self.clusters = clusters
        self.progress = 0.0

    @property
    def wants_siblings(self) -> bool:
        """Whether further captions of some rows are of use at all."""
        return self.weighting.calibrator is not None and not self.weighting.calibrator.linked

    @property
    def learns(self) -> bool:
        """Whether they are of use with the next batch."""
        return self.weighting.learns

    def __call__(self, features: Features, batch: PairBatch, sibling_text: Tensor | None = None) -> ObjectiveOutput:
        """The loss of this rank's (b, d) features against the candidates of all ranks.

        Args:
            features, batch: of this rank.
            sibling_text: (s, d) features of the batch's siblings, without gradient.
        """
        weights = None
        diagnostics: dict[str, Tensor] = {}
        if self.weighting.settings.rules or self.weighting.settings.correction or self.clusters is not None:
            everyone: GlobalBatch = gather_batch(features, batch, sibling_text)
            weights, diagnostics = self.weighting(everyone, self.progress)
            if self.clusters is not None:
                self.clusters.observe(everyone.keys.index, everyone.image, everyone.text)
            if not weights.changes:
                weights = None
        whole = distributed.world_size() == 1 and len(batch) < TILED_FROM
        loss = self._whole(features, weights) if whole else self._tiled(features, weights)
        return ObjectiveOutput(loss, diagnostics)

    def _whole(self, features: Features, weights: PairWeights | None) -> Tensor:
        """The loss of a small batch of one process, out of one matrix."""
        dense = Weights() if weights is None else weights.dense()
        if self.loss == "sigmoid":
            assert features.logit_bias is not None
            return sigmoid_loss(
                features.image,
                features.text,
                features.logit_scale,
                features.logit_bias,
                log_weights=dense.log_weights,
                positives=dense.positives,
            )
        return symmetric_info_nce(
            features.image,
            features.text,
            features.logit_scale,
            logit_bias=features.logit_bias,
            log_weights=dense.log_weights,
            text_log_weights=dense.text_log_weights,
            positives=dense.positives,
            text_positives=dense.text_positives,
        )

    def _tiled(self, features: Features, weights: PairWeights | None) -> Tensor:
        """The same in tiles, of this rank's pictures and the captions of all ranks."""
        offset = distributed.rank() * len(features.image)
        all_text = distributed.all_gather_with_grad(features.text)
        tiles: Tiles | None = None
        if weights is not None:
            few = FewWeights.of(weights) if len(all_text) >= TILED_FROM else None
            tiles = weights.tile if few is None else few.tile
        if self.loss == "sigmoid":
            assert features.logit_bias is not None
            return tiled_sigmoid_loss(
                features.image,
                all_text,
                features.logit_scale,
                features.logit_bias,
                tiles=tiles,
                offset=offset,
                kernel=self.kernel,
            )
        loss = tiled_info_nce(
            features.image,
            all_text,
            features.logit_scale,
            tiles=tiles,
            offset=offset,
            keep=4 * len(features.image) * len(all_text) <= KEPT_BYTES,
            all_reduce=distributed.all_reduce if distributed.world_size() > 1 else None,
            kernel=self.kernel,
        )
        # A bias cancels in a softmax; it still takes part, for a parameter without gradient stops DDP.
        return loss if features.logit_bias is None else loss + 0.0 * features.logit_bias

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        state = {"weighting": self.weighting.state_dict()}
        return state if self.clusters is None else state | {"clusters": self.clusters.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.weighting.load_state_dict(state["weighting"])
        if self.clusters is not None:
            self.clusters.load_state_dict(state["clusters"])
