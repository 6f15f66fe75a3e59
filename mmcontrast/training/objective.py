"""Where features, known positives and the loss meet, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmcontrast import distributed
from mmcontrast.losses import sigmoid_loss, symmetric_info_nce
from mmcontrast.negatives.known import MatchKeys, known_positives, mask_log_weights
from mmcontrast.types import NO_KEY, Features, PairBatch

LossName = Literal["info_nce", "sigmoid"]
Rule = Literal["none", "duplicates"]
Treatment = Literal["mask", "positives"]


@dataclass(frozen=True)
class ObjectiveOutput:
    """A scalar loss with gradient, and detached scalars to log (tensors: reading them would wait for the GPU)."""

    loss: Tensor
    diagnostics: dict[str, Tensor]


class ContrastiveObjective:
    """Gather features, decide how much each negative counts, and compute the loss of the local rows.

    Args:
        loss: "info_nce" (symmetric) or "sigmoid".
        rule: "duplicates" treats known positives apart; "none" is plain CLIP, where they are negatives.
        treatment: of known positives: "mask" takes them out, "positives" makes them further targets.
    """

    def __init__(self, loss: LossName = "info_nce", rule: Rule = "duplicates", treatment: Treatment = "mask") -> None:
        self.loss = loss
        self.rule = rule
        self.treatment = treatment

    def __call__(self, features: Features, batch: PairBatch) -> ObjectiveOutput:
        """The loss of this rank's (b, d) features against the candidates of all ranks."""
        offset = distributed.rank() * len(batch)
        known, text_known, diagnostics = None, None, {}
        if self.rule == "duplicates":
            local, everyone = MatchKeys.of(batch), _gather_keys(MatchKeys.of(batch))
            known = known_positives(local, everyone)  # b n
            text_known = known.T if everyone is local else known_positives(everyone, local).T
            pairs = known.shape[0] * (known.shape[1] - 1)
            diagnostics["known_positive_share"] = (known.sum() - len(batch)) / max(pairs, 1)
        return ObjectiveOutput(self._loss(features, known, text_known, offset), diagnostics)

    def _loss(self, features: Features, known: Tensor | None, text_known: Tensor | None, offset: int) -> Tensor:
        extra = self.treatment == "positives"
        log_weights = None if known is None or extra else mask_log_weights(known)
        all_text = distributed.all_gather_with_grad(features.text)
        if self.loss == "sigmoid":
            assert features.logit_bias is not None
            return sigmoid_loss(
                features.image,
                features.text,
                features.logit_scale,
                features.logit_bias,
                log_weights=log_weights,
                positives=known if extra else None,
                all_text_features=all_text,
                offset=offset,
            )
        return symmetric_info_nce(
            features.image,
            features.text,
            features.logit_scale,
            logit_bias=features.logit_bias,
            log_weights=log_weights,
            text_log_weights=None if text_known is None or extra else mask_log_weights(text_known),
            positives=known if extra else None,
            text_positives=text_known if extra else None,
            all_image_features=distributed.all_gather_with_grad(features.image),
            all_text_features=all_text,
            offset=offset,
        )


def _gather_keys(keys: MatchKeys) -> MatchKeys:
    if distributed.world_size() == 1:
        return keys
    return MatchKeys(
        distributed.all_gather(keys.index),
        distributed.all_gather(keys.caption_key),
        distributed.all_gather_padded(keys.caption_keys, NO_KEY),
        distributed.all_gather(keys.group_key),
    )
