"""Which rules about negatives are at work, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["none", "duplicates", "text_similarity", "margin", "quantile", "calibrated", "hardness", "oracle"]


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
