"""What a page shows of searches: galleries, cosines, suspected false negatives, hubs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcontrast.build.negatives_view import shown_pairs
from mmcontrast.build.pictures import Pictures
from mmcontrast.errors import DataError
from mmcontrast.evaluation.false_negatives import NegativesInspection, find_false_negatives
from mmcontrast.evaluation.pair_judge import Tokenize
from mmcontrast.evaluation.queries import Search, captions_by_picture, outcomes, pictures_by_caption, same_kind, some
from mmcontrast.evaluation.similarities import NEGATIVES, POSITIVES, SUSPECTED, Histogram, histogram
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.report.gallery import TOP
from mmcontrast.report.histogram import histogram_svg
from mmcontrast.report.inputs import RetrievedItem
from mmcontrast.report.panes import Pane
from mmcontrast.report.retrieval import BEST, CONFUSED, RANDOM, WORST, Searched, hubs

MOST_QUERIES = 2000
JUDGED = 1000
"""Pictures whose pairs are judged for suspected false negatives."""
_SUSPECTS = 6
_CAPTIONS = 20
"""Captions found that are looked at for those that are shown: many may be equal."""


@dataclass(frozen=True)
class Judge:
    """What judging pairs and wrong captions takes of a model.

    Attributes:
        tokenize: captions to tokens.
        vocabulary: how many different ones there are.
        encode: texts to (n, d) features.
        logit_scale: factor of the cosines in the model's probabilities.
    """

    tokenize: Tokenize
    vocabulary: int
    encode: Callable[[list[str]], Tensor]
    logit_scale: float


def retrieval_panes(evaluation: Evaluation, pictures: Pictures, judge: Judge | None) -> list[Pane]:
    """Galleries both ways, histograms of cosines, suspected false negatives; without a judge none of the latter."""
    data = evaluation.data
    keys = data.positive_keys(evaluation.positives)
    own: list[list[str]] = [[] for _ in data.positions]
    for caption, picture in zip(data.captions, data.text_images.tolist(), strict=True):
        own[picture].append(caption)
    by_picture, by_caption = captions_by_picture(data, keys), pictures_by_caption(data, keys)
    image_rows = some(len(data.positions), MOST_QUERIES, 0)
    text_rows = some(len(data.captions), MOST_QUERIES, 0)
    image_side = Searched(
        by_picture,
        outcomes(by_picture, image_rows, len(data.captions)),
        query=lambda i: (own[i], pictures(i)),
        item=lambda j, score, hit: RetrievedItem(score, hit, data.captions[j]),
        picture=lambda i: i,
        top=_CAPTIONS,
    )
    text_side = Searched(
        by_caption,
        outcomes(by_caption, text_rows, len(data.positions)),
        query=lambda j: ([data.captions[j]], None),
        item=lambda i, score, hit: RetrievedItem(score, hit, own[i][0] if own[i] else None, pictures(i)),
        picture=lambda j: int(data.text_images[j]),
    )
    drawn = len(text_rows) < len(data.captions) or len(image_rows) < len(data.positions)
    sample = f" Chosen among {MOST_QUERIES:,} queries drawn at random each way." if drawn else ""
    found = []
    for title, kind, lead in _GALLERIES[0 if judge else 1 :]:  # the report of a run has random queries already
        texts, images = text_side.examples(kind), image_side.examples(kind)
        if texts or images:
            found.append(Pane(title, lead + sample, text_queries=texts, image_queries=images))
    inspection = None if judge is None else _inspect(evaluation, judge)
    found.append(_cosine_pane(by_picture, image_rows, inspection))
    if inspection is not None and (suspects := _suspects(inspection, pictures)):
        found.append(suspects)
    if pane := _hub_pane(image_side, text_side, len(data.captions), len(data.positions)):
        found.append(pane)
    return found


_GALLERIES = (
    ("Random", RANDOM, "Queries drawn at random, with their best matches: neither good nor bad ones are picked."),
    ("Best", BEST, "Queries that found what belongs to them, and by the widest margin."),
    ("Worst", WORST, "Queries whose own match stands furthest down. The dashed frame shows it."),
    (
        "Confused",
        CONFUSED,
        "Queries that found something else by far closer than their own match, each something different: the model is "
        "sure, and wrong, unless what it found fits as well.",
    ),
)


def _inspect(evaluation: Evaluation, judge: Judge) -> NegativesInspection | None:
    """Pairs of a sample judged, or None where they cannot be."""
    data = evaluation.data.take(some(len(evaluation.data.positions), JUDGED, 0))
    try:
        return find_false_negatives(data, judge.tokenize, judge.vocabulary, count=_SUSPECTS)
    except DataError:  # too few pairs, or pictures without captions
        return None


def _cosine_pane(search: Search, rows: Tensor, inspection: NegativesInspection | None) -> Pane:
    found = histogram(map(search, torch.split(rows, 256))) if inspection is None else inspection.cosines
    lead = (
        "How close pictures and captions are. Each kind has the same area, whatever its number of pairs (in brackets). "
        f"{_means(found)} The less the two hills overlap, the better."
    )
    if inspection is not None:
        what = "that the judge believes to match" if inspection.calibrated else "among the closest 1 % by both sides"
        lead += (
            f" Suspected false negatives are pairs of different rows {what}, though nothing says so: "
            "such pairs count as errors here, and the training pushes them apart."
        )
        lead += f" Of {len(inspection.data.positions):,} pictures with one caption each."
    counts = {kind: found.counts[kind].numpy() for kind in (POSITIVES, NEGATIVES, SUSPECTED) if kind in found.counts}
    return Pane("Cosines", lead, svg=histogram_svg(counts, "Histogram of cosines"))


def _means(found: Histogram) -> str:
    pairs = found.mean(POSITIVES), found.mean(NEGATIVES)
    if None in pairs:
        return ""
    return f"On average {pairs[0]:.2f} for pairs that belong together, {pairs[1]:.2f} for others."


def _suspects(found: NegativesInspection, pictures: Pictures) -> Pane | None:
    if not found.false_negatives:
        return None
    there = Pictures(found.data, pictures.source, pictures.room)
    number = "the probability that they match" if found.calibrated else "their cosine"
    lead = f"Pairs of different rows whose caption may well fit the other picture; the number is {number}."
    return Pane("Suspected", lead, pairs=shown_pairs(found, there, found.false_negatives))


def _hub_pane(image_side: Searched, text_side: Searched, captions: int, images: int) -> Pane | None:
    found = [
        *hubs(image_side.outcomes.first, captions, lambda j: image_side.item(j, 0.0, False)),
        *hubs(text_side.outcomes.first, images, lambda i: text_side.item(i, 0.0, False)),
    ]
    if not found:
        return None
    lead = "What stands first for far more queries than its share: a model that has hubs finds them for everything."
    return Pane("Hubs", lead, hubs=found)


def same_kind_panes(task: str, evaluation: Evaluation, pictures: Pictures) -> list[Pane]:
    """Galleries of pictures that looked for pictures, or of captions that looked for captions."""
    data = evaluation.data
    keys = data.positive_keys(evaluation.positives)
    features, own = (data.image_features, keys.image)
    of_pictures = task == "image_to_image"
    if not of_pictures:
        features, own = data.text_features, keys.text[:, None]
    search = same_kind(features, own)

    def query(i: int) -> tuple[Sequence[str], bytes | None]:
        return ([], pictures(i)) if of_pictures else ([data.captions[i]], None)

    def item(i: int, score: float, hit: bool) -> RetrievedItem:
        if not of_pictures:
            return RetrievedItem(score, hit, data.captions[i])
        return RetrievedItem(score, hit, pictures.class_name(data.labels[i]) or None, pictures(i))

    rows = some(len(features), MOST_QUERIES, 0)
    top = TOP if of_pictures else _CAPTIONS
    side = Searched(search, outcomes(search, rows, len(features)), query, item, lambda i: i, top)
    shown = []
    for title, kind, lead in _GALLERIES:
        if found := side.examples(kind):
            shown.append(Pane(title, lead, text_queries=found))
    return shown
