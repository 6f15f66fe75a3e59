"""From the `negatives` section to the objective, and to what the sampler asks of it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mmcontrast.config import Config
from mmcontrast.data import PairSource, PairStream
from mmcontrast.data.keys import caption_key
from mmcontrast.errors import ConfigError
from mmcontrast.losses.kernel import kernel_problem
from mmcontrast.models import DualEncoder, Tokenizer
from mmcontrast.negatives.clustering import Clusters
from mmcontrast.negatives.evidence import LINKED, linked_share, new_calibrator
from mmcontrast.negatives.judge import StoredPairJudge
from mmcontrast.negatives.known import MatchKeys
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics
from mmcontrast.training.objective import ContrastiveObjective
from mmcontrast.types import NO_KEY

LOOKED_AT = 1000
"""Rows among which linked pairs are counted."""
STREAM_ITEMS = 1_048_573
"""Places for the cluster ids of a stream, whose rows share them when there are more.

A prime: row r of file f has the number f << 32 | r, so in a power of two of places all files' first rows would share
one, while the last places stayed empty; here each file begins elsewhere.
"""


def make_objective(
    config: Config, model: DualEncoder, device: torch.device, source: PairSource | PairStream
) -> ContrastiveObjective:
    """Loss, rules about negatives with what they learn from, and the clusters that guide batches.

    Raises:
        ConfigError: training.loss_kernel cannot run on this device.
    """
    if problem := kernel_problem(config.training.loss_kernel, device):
        raise ConfigError(f"training.loss_kernel {problem}")
    num_rows = len(source) if isinstance(source, PairSource) else None
    negatives, seed = config.negatives, config.training.seed
    rules = negatives.rules
    settings = RuleSettings(
        rules=rules,
        known_positives=negatives.known_positives,
        soft_positives=negatives.soft_positives,
        floor=negatives.floor,
        start=negatives.start,
        ramp=negatives.ramp,
        margin=negatives.margin,
        relative_margin=negatives.margin_kind == "relative",
        quantile=negatives.quantile,
        beta=negatives.beta,
        oracle=negatives.oracle,
        correction=negatives.cluster.correction,
    )
    learns = "calibrated" in rules or ("quantile" in rules and negatives.quantile is None)
    calibrator = words = clusters = None
    if learns:
        calibrator = new_calibrator(
            has_linked_pairs(source),
            prior=negatives.prior,
            prior_factor=negatives.prior_factor,
            seed=seed,
            device=device,
        )
    if learns or "text_similarity" in rules:
        words = WordStatistics(model.tokenizer.vocab_size, device)
    if negatives.cluster.share:
        clusters = Clusters(
            STREAM_ITEMS if num_rows is None else num_rows,
            model.embed_dim,
            items_per_cluster=negatives.cluster.items_per_cluster,
            seed=seed,
            device=device,
        )
    weighting = Weighting(settings, calibrator=calibrator, words=words, clusters=clusters, seed=seed)
    return ContrastiveObjective(config.training.loss, weighting, clusters, config.training.loss_kernel)


def has_linked_pairs(source: PairSource | PairStream) -> bool:
    """Whether so many pictures share captions that these are evidence enough of what else matches.

    Of a stream nobody knows before it is read: then captions are kept from training for that purpose, where there are
    several of a picture.
    """
    if isinstance(source, PairStream) or len(source) < 2 or not source.columns.captions:
        return False
    rows = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:LOOKED_AT].tolist()
    keys = [[caption_key(caption) for caption in source.captions(row)] for row in rows]
    table = torch.tensor([own + [NO_KEY] * (max(map(len, keys)) - len(own)) for own in keys])
    nowhere = torch.full((len(rows),), NO_KEY)
    return linked_share(MatchKeys(torch.tensor(rows), table[:, 0].contiguous(), table, nowhere)) >= LINKED


def make_judge(
    config: Config, objective: ContrastiveObjective, source: PairSource | PairStream, model: DualEncoder
) -> StoredPairJudge | None:
    """What keeps probable matches out of each other's group; None without probabilities or captions at hand."""
    weighting, clusters = objective.weighting, objective.clusters
    if clusters is None or weighting.calibrator is None or weighting.words is None:
        return None
    if isinstance(source, PairStream) or config.negatives.cluster.max_probability is None:
        return None
    return StoredPairJudge(
        clusters, weighting.calibrator, weighting.words, partial(_tokens, source=source, tokenizer=model.tokenizer)
    )


def _tokens(rows: Tensor, source: PairSource, tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    tokens = tokenizer([source.captions(row)[0] for row in rows.tolist()])
    return tokens.input_ids, tokens.attention_mask
