"""Where features, weights of negatives and the loss meet, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from mmcontrast import distributed
from mmcontrast.losses import sigmoid_loss, symmetric_info_nce
from mmcontrast.negatives.batch import GlobalBatch, gather_batch
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.weighting import RuleSettings, Weighting, Weights
from mmcontrast.types import Features, PairBatch

LossName = Literal["info_nce", "sigmoid"]


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

    Attributes:
        progress: share of the training that is done, set by the trainer before each step.
    """

    def __init__(
        self, loss: LossName = "info_nce", weighting: Weighting | None = None, clusters: Clusters | None = None
    ) -> None:
        self.loss = loss
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
        offset = distributed.rank() * len(batch)
        weights = Weights()
        diagnostics: dict[str, Tensor] = {}
        if self.weighting.settings.rules or self.weighting.settings.correction or self.clusters is not None:
            everyone: GlobalBatch = gather_batch(features, batch, sibling_text)
            weights, diagnostics = self.weighting(everyone, self.progress)
            if self.clusters is not None:
                self.clusters.observe(everyone.keys.index, everyone.image, everyone.text)
        return ObjectiveOutput(self._loss(features, weights, offset), diagnostics)

    def _loss(self, features: Features, weights: Weights, offset: int) -> Tensor:
        all_text = distributed.all_gather_with_grad(features.text)
        if self.loss == "sigmoid":
            assert features.logit_bias is not None
            return sigmoid_loss(
                features.image,
                features.text,
                features.logit_scale,
                features.logit_bias,
                log_weights=weights.log_weights,
                positives=weights.positives,
                all_text_features=all_text,
                offset=offset,
            )
        return symmetric_info_nce(
            features.image,
            features.text,
            features.logit_scale,
            logit_bias=features.logit_bias,
            log_weights=weights.log_weights,
            text_log_weights=weights.text_log_weights,
            positives=weights.positives,
            text_positives=weights.text_positives,
            all_image_features=distributed.all_gather_with_grad(features.image),
            all_text_features=all_text,
            offset=offset,
        )

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        state = {"weighting": self.weighting.state_dict()}
        return state if self.clusters is None else state | {"clusters": self.clusters.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.weighting.load_state_dict(state["weighting"])
        if self.clusters is not None:
            self.clusters.load_state_dict(state["clusters"])
