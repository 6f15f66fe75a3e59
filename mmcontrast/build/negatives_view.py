"""From an inspection of the negatives to what a page shows of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcontrast.build.pictures import Pictures
from mmcontrast.data import PairSource
from mmcontrast.evaluation.false_negatives import NegativesInspection
from mmcontrast.evaluation.pair_sweep import JudgedPair
from mmcontrast.evaluation.reliability import Reliability
from mmcontrast.report.negatives import (
    NegativesView,
    ShownBatch,
    ShownCluster,
    ShownMap,
    ShownPair,
    ShownPicture,
    ShownReliability,
)

_SHOWN_CLUSTERS = 24
_PER_CLUSTER = 6
_BATCH = 256
_SMALL = 64
_LARGE = 200


def _shown(pictures: Pictures, row: int, caption: int, side: int = _LARGE) -> ShownPicture:
    return ShownPicture(pictures(row, side), pictures.data.captions[caption], pictures.where(row))


def _verdict(pictures: Pictures, pair: JudgedPair, truth: str | None) -> str:
    if pair.same is None:
        return ""
    if truth != "label":
        return "same group" if pair.same else "other group"
    one, other = (pictures.class_name(pictures.data.labels[row]) for row in (pair.image, pair.other))
    return f"both {one}" if pair.same else f"{one or 'none'} | {other or 'none'}"


def shown_pairs(found: NegativesInspection, pictures: Pictures, judged: Sequence[JudgedPair]) -> list[ShownPair]:
    """Some of the judged pairs with their pictures."""
    return [
        ShownPair(
            _shown(pictures, pair.image, pair.caption),
            _shown(pictures, pair.other, pair.other_caption),
            pair.score if found.calibrated else None,
            pair.cosine,
            _verdict(pictures, pair, found.truth),
            pair.same,
        )
        for pair in judged
    ]


def negatives_view(found: NegativesInspection, source: PairSource) -> NegativesView:
    """What a page shows of an inspection of `source`."""
    pictures = Pictures(found.data, source)
    return NegativesView(
        headlines=_headlines(found),
        calibrated=found.calibrated,
        truth={"label": "class", "group": "group", None: ""}[found.truth],
        believed=shown_pairs(found, pictures, found.false_negatives),
        borderline=shown_pairs(found, pictures, found.borderline),
        hard=shown_pairs(found, pictures, found.hard_negatives),
        clusters=_clusters(found, pictures),
        cluster_note=_cluster_note(found),
        map=_map(found, pictures),
        batch=_batch(found, pictures),
        reliability=None if found.reliability is None else _reliability(found.reliability),
        notes=found.notes,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.{2 if share < 0.01 else 1}f} %"


def _headlines(found: NegativesInspection) -> list[tuple[str, str, str]]:
    def a_batch(share: float) -> str:
        return f"{share * (_BATCH - 1):.1f} of the 255 others in a batch of 256"

    cards = [("Known to match", _percent(found.known_share), a_batch(found.known_share) + "; never negatives")]
    unknown = 1 - found.known_share
    if found.believed_share is not None:
        share = found.believed_share * unknown
        cards.insert(0, ("Pushed apart wrongly, as believed", _percent(share), a_batch(share)))
    if found.true_share is not None:
        word = "class" if found.truth == "label" else "group"
        share = found.true_share * unknown
        cards.append((f"Same {word}, not known to match", _percent(share), a_batch(share)))
    if found.reliability is not None and found.reliability.auroc is not None:
        cards.append(
            ("AUROC of the belief", f"{found.reliability.auroc:.3f}", "1 orders all pairs rightly, 0.5 guesses")
        )
    if found.clusters.purity is not None:
        cards.append(("Cluster purity", _percent(found.clusters.purity), f"{len(found.clusters.clusters)} clusters"))
    return cards


def _clusters(found: NegativesInspection, pictures: Pictures) -> list[ShownCluster]:
    first = {int(image): place for place, image in reversed(list(enumerate(found.data.text_images.tolist())))}
    return [
        ShownCluster(
            [pictures.thumbnail(member, _SMALL) for member in cluster.members[:_PER_CLUSTER]],
            found.data.captions[first[cluster.members[0]]],
            len(cluster.members),
            cluster.within,
            pictures.class_name(cluster.label),
            cluster.purity,
        )
        for cluster in found.clusters.clusters[:_SHOWN_CLUSTERS]
    ]


def _cluster_note(found: NegativesInspection) -> str:
    clusters = found.clusters.clusters
    shown = f" The {_SHOWN_CLUSTERS} largest are shown." if len(clusters) > _SHOWN_CLUSTERS else ""
    return (
        f"{len(clusters)} clusters of {len(clusters[-1].members)} to {len(clusters[0].members)} pairs, with their most "
        f"typical pictures and the caption of the first of them.{shown}"
    )


def _map(found: NegativesInspection, pictures: Pictures) -> ShownMap:
    clusters = found.clusters
    medoids = [cluster.members[0] for cluster in clusters.clusters]
    thumbnails = [pictures.thumbnail(member, _SMALL) for member in medoids]
    return ShownMap(clusters.points.numpy(), clusters.ids.numpy(), medoids, thumbnails, clusters.explained)


def _batch(found: NegativesInspection, pictures: Pictures) -> ShownBatch:
    batch = found.batch
    shown = [_shown(pictures, row, caption, _SMALL) for row, caption in zip(batch.rows, batch.captions, strict=True)]
    # Without probabilities a cell is full or empty: suspect, or not.
    believed = batch.scores.double() if found.calibrated else (batch.scores >= batch.suspect_from).double()
    same = None if batch.same is None else batch.same.numpy()
    return ShownBatch(shown, batch.known.numpy(), np.asarray(believed), same)


def _reliability(curve: Reliability) -> ShownReliability:
    numbers = reliability_numbers(curve, "Pairs held against the truth", "the same")
    return ShownReliability(curve.believed, curve.observed, curve.counts, numbers)


def reliability_numbers(curve: Reliability, what: str, truth: str) -> dict[str, str]:
    """Label -> value of what stands beside a curve of `what`, of which some are `truth`."""
    better = 1 - curve.brier / curve.brier_constant if curve.brier_constant else 0.0
    return {
        what: f"{sum(curve.counts):,}",
        f"Share that is {truth}": _percent(curve.base_rate),
        "Mean probability": _percent(curve.mean),
        "Brier score": f"{curve.brier:.4f}",
        f"Brier score of always saying {_percent(curve.base_rate)}": f"{curve.brier_constant:.4f}",
        "Better than that by": f"{100 * better:.0f} %",
        "Calibration error (ECE)": f"{curve.ece:.4f}",
        "AUROC": "–" if curve.auroc is None else f"{curve.auroc:.3f}",
    }
