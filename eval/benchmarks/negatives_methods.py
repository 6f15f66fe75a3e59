"""What is compared: methods as overrides of a config, and cells, the units of the benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Budget = Literal["samples", "time"]

BASELINE = "infonce"
ORACLE = "oracle_mask"
ORACLE_POSITIVES = "oracle_positives"

_CALIBRATED = ["duplicates", "calibrated"]
_GUIDED = {"share": 0.25}
_SOFT = {"rule": _CALIBRATED, "known_positives": "positives", "soft_positives": 0.5}

METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "infonce": {"negatives": {"rule": "none"}},
    "sigmoid": {"training": {"loss": "sigmoid"}, "negatives": {"rule": "none"}},
    "hardness": {"negatives": {"rule": "hardness"}},
    "duplicates": {"negatives": {"rule": "duplicates"}},
    "duplicates_positives": {"negatives": {"rule": "duplicates", "known_positives": "positives"}},
    "text_similarity": {"negatives": {"rule": ["duplicates", "text_similarity"]}},
    "margin": {"negatives": {"rule": ["duplicates", "margin"]}},
    "quantile": {"negatives": {"rule": ["duplicates", "quantile"]}},
    "cluster": {"negatives": {"rule": "duplicates", "cluster": _GUIDED}},
    "calibrated": {"negatives": {"rule": _CALIBRATED}},
    "cluster_calibrated": {"negatives": {"rule": _CALIBRATED, "cluster": _GUIDED}},
    "calibrated_positives": {"negatives": {"rule": _CALIBRATED, "known_positives": "positives"}},
    "soft_positives": {"negatives": _SOFT},
    "soft_half": {"negatives": {**_SOFT, "prior_factor": 0.5}},
    "soft_double": {"negatives": {**_SOFT, "prior_factor": 2.0}},
    "cluster_soft": {"negatives": {**_SOFT, "cluster": _GUIDED}},
    "cluster_soft_corrected": {"negatives": {**_SOFT, "cluster": {"share": 0.5, "correction": 1.0}}},
    "oracle_mask": {"negatives": {"rule": "oracle", "oracle": "label", "known_positives": "mask"}},
    "oracle_positives": {"negatives": {"rule": "oracle", "oracle": "label", "known_positives": "positives"}},
}
TUNED_AS = {
    "soft_half": "soft_positives",
    "soft_double": "soft_positives",
    "cluster": "duplicates",
    "cluster_calibrated": "calibrated",
    "cluster_soft": "soft_positives",
    "cluster_soft_corrected": "soft_positives",
}
"""Methods that take the scale of another one: what is asked is what a wrong prior, or guided batches, do to it."""

VARIES = {
    "cluster": "duplicates",
    "cluster_calibrated": "calibrated",
    "cluster_soft": "soft_positives",
    "cluster_soft_corrected": "soft_positives",
    "soft_half": "soft_positives",
    "soft_double": "soft_positives",
    "soft_positives": "text_similarity",
}
"""What each method is to be held against besides InfoNCE: the same without guided batches, with the estimated prior, or
the weights that need no training."""

SCALES = (1.75, 3.5, 7.0, 14.285714)
DEFAULT_SCALE = 14.285714
TUNING_SEEDS = 1000
"""Seeds from here on are for tuning only."""

_KEY = re.compile(r"([\w-]+)/([\w-]+)/(\d+)/(\w+)/(\d+)(?:/(time|tune-([\d.]+)))?")


@dataclass(frozen=True)
class Cell:
    """One training run of the benchmark.

    Attributes:
        dataset, setting, batch, method, seed: what is trained.
        budget: as many samples as InfoNCE, or as many as fit into its time.
        tuning_scale: initial logit scale of a tuning run, which is measured on held-out training rows; None for a
            run that counts.
    """

    dataset: str
    setting: str
    batch: int
    method: str
    seed: int
    budget: Budget = "samples"
    tuning_scale: float | None = None

    @property
    def key(self) -> str:
        """What `--list` prints and `--only` takes."""
        plain = f"{self.dataset}/{self.setting}/{self.batch}/{self.method}/{self.seed}"
        if self.tuning_scale is not None:
            return f"{plain}/tune-{self.tuning_scale:g}"
        return plain if self.budget == "samples" else f"{plain}/{self.budget}"

    @property
    def tuning(self) -> bool:
        """Whether this run looks for a scale."""
        return self.tuning_scale is not None


def parse_cell(key: str) -> Cell:
    """The cell of a key.

    Raises:
        ValueError: no such form, or no such method.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no cell: write DATASET/SETTING/BATCH/METHOD/SEED, see --list")
    dataset, setting, batch, method, seed, kind, scale = found.groups()
    if method not in METHODS:
        raise ValueError(f"{key!r}: no method {method!r}; there are {', '.join(METHODS)}")
    budget: Budget = "time" if kind == "time" else "samples"
    tuned = None if scale is None else min(SCALES, key=lambda known: abs(known - float(scale)))
    return Cell(dataset, setting, int(batch), method, int(seed), budget, tuned)


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, one laid over the other."""
    result = dict(base)
    for name, value in overrides.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
