"""Which pairs of a data set would training push apart wrongly? A look at them with a model that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcontrast.errors import DataError
from mmcontrast.evaluation.cluster_map import ClusterMap, joint_features, map_clusters
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.pair_judge import BATCH, CaptionedRows, PairJudge, Tokenize
from mmcontrast.evaluation.pair_sweep import CLOSEST, JudgedPair, Sweep, same_class, shuffled, sweep_pairs, varied
from mmcontrast.evaluation.reliability import Reliability, reliability
from mmcontrast.evaluation.similarities import Histogram
from mmcontrast.negatives.calibrator import Calibrator
from mmcontrast.negatives.words import WordStatistics

LEAST_ROWS = 32


@dataclass(frozen=True)
class BatchView:
    """One random batch as the loss sees it.

    Attributes:
        rows: b positions, those of one cluster side by side.
        captions: their captions' places.
        known: (b, b) bool, picture i and caption j are known to match.
        scores: (b, b) as in `JudgedPair`.
        same: (b, b) bool truth of labels or groups, or None.
        suspect_from: score from which a pair counts as suspect.
    """

    rows: list[int]
    captions: list[int]
    known: Tensor
    scores: Tensor
    same: Tensor | None
    suspect_from: float


@dataclass(frozen=True)
class NegativesInspection:
    """What was found.

    Attributes:
        data: the embedded pairs.
        calibrated: whether scores are probabilities.
        pairs: ordered pairs (picture i, caption j != i) that were judged.
        known_share: share of them known to match: same caption or group.
        believed_share: share of the others that is believed to match: mean probability, or None.
        prior: the calibrator's own estimate of that share, or None.
        truth: "label", "group", or None where the data tells nothing.
        true_share: share of the pairs not known that the truth calls the same, or None.
        false_negatives: believed to match although nothing says so, the most probable first.
        borderline: those the calibrator cannot decide, drawn at random.
        hard_negatives: close in the model's space, yet believed not to match, the closest first.
        clusters: of the pairs, and their map.
        batch: a random one.
        reliability: probabilities against the truth, over all pairs not known.
        cosines: of pairs known to match, suspected ones, and the others.
        notes: what the reader should know.
    """

    data: EmbeddedData
    calibrated: bool
    pairs: int
    known_share: float
    believed_share: float | None
    prior: float | None
    truth: str | None
    true_share: float | None
    false_negatives: list[JudgedPair]
    borderline: list[JudgedPair]
    hard_negatives: list[JudgedPair]
    clusters: ClusterMap
    batch: BatchView
    reliability: Reliability | None
    cosines: Histogram = field(default_factory=Histogram)
    notes: list[str] = field(default_factory=list)


def find_false_negatives(
    data: EmbeddedData,
    tokenize: Tokenize,
    vocabulary: int,
    *,
    count: int = 12,
    batch: int = 32,
    seed: int = 0,
    calibrator: Calibrator | None = None,
    words: WordStatistics | None = None,
    reference: int = BATCH,
) -> NegativesInspection:
    """Judge all pairs of an embedded data set.

    Args:
        data: pictures and all their captions.
        tokenize: captions to tokens, and
        vocabulary: how many different ones there are.
        count: pairs of each kind to show.
        batch: pairs of the batch to show.
        seed: of every random choice.
        calibrator: of a run; None fits one on this data, or falls back to ranks where few pictures have two captions.
        words: word statistics that go with the calibrator.
        reference: pairs of a batch in the eyes of the calibrator: it knows ranks within so many.

    Raises:
        DataError: too few pairs to judge.
    """
    captioned = len(set(data.text_images.tolist()))
    if captioned < len(data.positions):
        raise DataError(f"{data.name}: {len(data.positions) - captioned} pictures have no caption; leave them out")
    if len(data.positions) < LEAST_ROWS:
        raise DataError(
            f"{data.name}: {len(data.positions)} pictures are too few to look for false negatives; "
            f"at least {LEAST_ROWS} are needed"
        )
    judge = PairJudge(
        CaptionedRows(data, tokenize, seed),
        vocabulary,
        seed=seed,
        calibrator=calibrator,
        words=words,
        reference=reference,
    )
    truth, classes = _truth(data)
    sweep = sweep_pairs(judge, classes, seed)
    means = joint_features(data.image_features, _mean_texts(data))
    clusters = map_clusters(means, data.labels, seed=seed)
    unknown = sweep.pairs - sweep.known
    return NegativesInspection(
        data=data,
        calibrated=judge.calibrated,
        pairs=sweep.pairs,
        known_share=sweep.known / sweep.pairs,
        believed_share=sweep.believed / max(1, unknown) if judge.calibrated else None,
        prior=judge.calibrator.prior if judge.calibrator is not None else None,
        truth=truth,
        true_share=None if classes is None else sweep.true / max(1, unknown),
        false_negatives=varied(sweep.probable, data.captions, count),
        borderline=varied(shuffled(sweep.undecided, seed), data.captions, count // 2) if judge.calibrated else [],
        hard_negatives=varied(sweep.hard, data.captions, count),
        clusters=clusters,
        batch=_batch(judge, clusters, classes, batch, seed),
        reliability=_reliability(sweep) if judge.calibrated and classes is not None else None,
        cosines=sweep.cosines,
        notes=_notes(data, judge, truth),
    )


def _truth(data: EmbeddedData) -> tuple[str | None, Tensor | None]:
    """What tells the truth, and (n,) int64 of it, -1 where it says nothing."""
    sources: tuple[tuple[str, Sequence[int | str | None]], ...] = (("label", data.labels), ("group", data.groups))
    for name, values in sources:
        numbers: dict[int | str, int] = {}
        classes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
        if len(numbers) > 1:
            return name, torch.tensor(classes)
    return None, None


def _mean_texts(data: EmbeddedData) -> Tensor:
    """(n, d) mean feature of each picture's captions."""
    shape = (len(data.positions), data.text_features.shape[1])
    total = torch.zeros(shape).index_add_(0, data.text_images, data.text_features)
    return total / data.text_images.bincount(minlength=shape[0]).clamp(min=1)[:, None]


def _batch(judge: PairJudge, clusters: ClusterMap, classes: Tensor | None, size: int, seed: int) -> BatchView:
    rows = torch.randperm(len(judge.rows), generator=torch.Generator().manual_seed(seed + 1))[:size]
    rows = rows[clusters.ids[rows].argsort(stable=True)]
    same = None if classes is None else same_class(classes[rows], classes[rows])
    known = judge.rows.known(rows)[:, rows]
    return BatchView(
        rows=rows.tolist(),
        captions=judge.rows.captions[rows].tolist(),
        known=known,
        scores=judge.scores(rows)[:, rows],
        same=same,
        suspect_from=0.5 if judge.calibrated else 1 - CLOSEST,
    )


def _reliability(sweep: Sweep) -> Reliability | None:
    return reliability(torch.cat(sweep.scores), torch.cat(sweep.truths)) if sweep.scores else None


def _notes(data: EmbeddedData, judge: PairJudge, truth: str | None) -> list[str]:
    notes = []
    if not judge.calibrated:
        notes.append(
            f"{judge.rows.siblings} pictures have two different captions, too few to calibrate "
            f"probabilities, so pairs are ranked by similarity (the closest {100 * CLOSEST:g} % are suspect)"
        )
    if truth is not None:
        word = "class" if truth == "label" else truth
        notes.append(
            f"pairs are held against their {truth}s: a caption may fit a picture of another {word} all the same, and "
            f"need not fit every picture of its own"
        )
    if data.bad_rows:
        notes.append(f"{len(data.bad_rows)} pictures could not be decoded and take no part")
    return notes
