"""The `negatives` section: who is a negative of whom, and how much it counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmcontrast.config.section import Count, Positive, Section, Share

RuleName = Literal["none", "duplicates", "text_similarity", "margin", "quantile", "calibrated", "hardness", "oracle"]
Probability = Annotated[float, Field(gt=0, lt=1)]


class ClusterConfig(Section):
    """Batches that hold some similar pairs on purpose."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each batch that comes in groups out of one cluster; 0 is a plain shuffle."""
    group: Annotated[int, Field(ge=2)] = 4
    """Pairs of one cluster that come together."""
    items_per_cluster: Annotated[int, Field(ge=2)] = 64
    """Decides the number of clusters: pairs / items_per_cluster."""
    neighbours: Annotated[int, Field(ge=0)] = 4
    """Nearest clusters that a group is filled up from when its own runs out."""
    correction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Undo the bias of guided batches in the loss: 1 in full (uniform negatives), 0 keeps the negatives harder."""
    start: Share = 0.3
    """Share of the training before batches are guided: clusters of an untrained model mean nothing."""
    refresh_every_steps: Count | None = None
    """Steps between new clusters; null for once an epoch."""
    max_probability: Probability | None = 0.5
    """Pairs that match with a higher probability are kept out of each other's group (needs rule calibrated)."""


class NegativesConfig(Section):
    """Who is a negative of whom, and how much it counts."""

    rule: RuleName | Annotated[list[RuleName], Field(min_length=1)] = "duplicates"
    """One rule or a list of them, whose effects add up.

    none: every other pair is a negative. duplicates: pairs with the same picture, caption or group are none.
    text_similarity: negatives with similar words count less. margin: negatives nearly as close as the true pair are
    left out. quantile: each anchor's closest ones are left out. calibrated: a small network tells how probably each
    negative is a match after all. hardness: close negatives count more. oracle: labels or groups tell the truth
    (experiments only).
    """
    known_positives: Literal["mask", "positives"] = "mask"
    """What becomes of the pairs that duplicates (or oracle) finds: left out, or made further positives."""
    soft_positives: Probability | None = None
    """Pairs that calibrated finds more probable than this, and as likely as the median known match, become positives
    with that weight; null never does it."""
    floor: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Least weight of a negative under calibrated and text_similarity."""
    start: Share = 0.1
    """Share of the training before margin, quantile and calibrated have an effect."""
    ramp: Share = 0.1
    """Share of the training in which their effect grows to its full size."""
    prior: Probability | None = None
    """Share of the unknown pairs that match after all; null estimates it from the data (calibrated)."""
    prior_factor: Positive = 1.0
    """Multiplies the estimated prior (calibrated)."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.05
    """Negatives within this distance of the true pair's similarity are left out (margin)."""
    margin_kind: Literal["absolute", "relative"] = "absolute"
    """Margin as a cosine, or as a share of the true pair's cosine."""
    quantile: Probability | None = None
    """Share of each anchor's negatives that is left out; null takes the estimated prior (quantile)."""
    beta: Annotated[float, Field(ge=0)] = 0.2
    """How much more hard negatives count (hardness)."""
    oracle: Literal["label", "group"] = "label"
    """Where the truth stands (oracle)."""
    cluster: ClusterConfig = ClusterConfig()
    """Batches that hold some similar pairs on purpose."""

    @property
    def rules(self) -> tuple[RuleName, ...]:
        """The rules as a tuple without `none`."""
        rules = [self.rule] if isinstance(self.rule, str) else self.rule
        return tuple(rule for rule in rules if rule != "none")
