"""From evaluations of several models to what the page of their comparison shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mmcontrast.data.keys import normalise_caption
from mmcontrast.evaluation import metrics
from mmcontrast.evaluation.comparison import TasksCompared
from mmcontrast.evaluation.contests import Race, Tally, class_contests, most_different, race, tally
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.outcomes import Classified, Items
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.preprocess import decode_image
from mmcontrast.report.comparison import Answer, DataPage, DisputedPicture, DisputedQuery, Duel
from mmcontrast.report.comparison_rows import title as metric_title
from mmcontrast.report.gallery import encode_thumbnail
from mmcontrast.report.inputs import RetrievedItem

_QUERIES, _PICTURES = 4, 12
_TOP = 4
_RACES = {
    "text → image: rank of the right picture": "text_to_image_mean_rank",
    "image → text: rank of a right caption": "image_to_text_mean_rank",
    "ranks": "mean_rank",
}


def data_page(name: str, several: Sequence[Evaluation], tasks: TasksCompared, *, seed: int = 0) -> DataPage:
    """One data set: the evaluations of all models on it, and their comparison."""
    first = several[0]
    data, pictures = first.data, _Pictures(first)
    facts = {"data": "/".join(Path(data.name).parts[-2:]), "pictures": f"{len(data.positions):,}"}
    if data.captions:
        facts["captions"] = f"{len(data.captions):,}"
    duels = [_duel(place, first, other, pictures, seed) for place, other in enumerate(several[1:], 1)]
    return DataPage(name, facts, tasks, duels)


class _Pictures:
    """Thumbnails of an evaluation's pictures, each made once."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._made: dict[int, bytes] = {}

    def __call__(self, row: int) -> bytes:
        if row not in self._made:
            source, positions = self._evaluation.source, self._evaluation.data.positions
            assert source is not None
            self._made[row] = encode_thumbnail(decode_image(source.image(int(positions[row]))))
        return self._made[row]


def _duel(place: int, first: Evaluation, other: Evaluation, pictures: _Pictures, seed: int) -> Duel:
    races: dict[str, Race] = {}
    tallies: dict[str, Tally] = {}
    for task, ours in first.details.items():
        theirs = other.details[task]
        for title, metric in _RACES.items():
            if metric in ours.items:
                races[_of_task(task, title)] = race(ours.items[metric].values, theirs.items[metric].values)
        for metric, items in ours.items.items():
            if _is_counted(metric, items):
                tallies[_of_task(task, metric_title(metric))] = tally(items.values, theirs.items[metric].values)
    classified = {
        task: (ours.classified, other.details[task].classified)
        for task, ours in first.details.items()
        if ours.classified is not None
    }
    classes = {task: class_contests(ours, theirs) for task, (ours, theirs) in classified.items() if theirs is not None}
    only_first, only_other = _disputed_pictures(classified.get("zero_shot", (None, None)), pictures, seed)
    to_image, to_text = ([], []) if first.rankings is None else _disputed_queries(first, other, pictures)
    return Duel(place, races, tallies, classes, to_image, to_text, only_first, only_other)


def _of_task(task: str, title: str) -> str:
    return f"{task.replace('_', '-')}: {title}"


def _is_counted(metric: str, items: Items) -> bool:
    """One count of right and wrong for each task and way: not recall at 5 and 10 as well, nor each corruption."""
    parts = metric.endswith(("recall@5", "recall@10")) or metric == "acc5" or "/" in metric
    return items.values.dtype == torch.bool and not parts


def _disputed_pictures(
    both: tuple[Classified | None, Classified | None], pictures: _Pictures, seed: int
) -> tuple[list[DisputedPicture], list[DisputedPicture]]:
    """Pictures that only the first, and that only the other classifies rightly, drawn at random."""
    first, other = both
    if first is None or other is None:
        return [], []
    generator = torch.Generator().manual_seed(seed)

    def some(winner: Classified, loser: Classified) -> list[DisputedPicture]:
        places = ((winner.predictions == winner.labels) & (loser.predictions != loser.labels)).nonzero().squeeze(1)
        chosen: list[int] = places[torch.randperm(len(places), generator=generator)[:_PICTURES]].sort().values.tolist()
        names = winner.class_names
        return [
            DisputedPicture(
                pictures(int(winner.pictures[at])), names[int(winner.labels[at])], names[int(loser.predictions[at])]
            )
            for at in chosen
        ]

    return some(first, other), some(other, first)


def _disputed_queries(
    first: Evaluation, other: Evaluation, pictures: _Pictures
) -> tuple[list[DisputedQuery], list[DisputedQuery]]:
    """Captions, and pictures, whose ranks differ most."""
    assert first.rankings is not None
    assert other.rankings is not None
    data = first.data
    keys = data.positive_keys(first.positives)
    models = [_Searching(one.data) for one in (first, other)]

    def by_text(j: int, winner: int) -> DisputedQuery:
        positive, owner = keys.text_queries(j, j + 1)[0], int(data.text_images[j])
        shown = partial(_found_picture, pictures, positive)
        answers = [_answer(one.pictures_for(j), positive, shown) for one in models]
        return DisputedQuery(winner, (answers[0], answers[1]), len(data.positions), [data.captions[j]], pictures(owner))

    def by_image(i: int, winner: int) -> DisputedQuery:
        positive = keys.image_queries(i, i + 1)[0]
        shown = partial(_found_caption, data, positive)
        answers = [_answer(one.captions_for(i), positive, shown) for one in models]
        own = [data.captions[j] for j in (data.text_images == i).nonzero().squeeze(1).tolist()]
        return DisputedQuery(winner, (answers[0], answers[1]), len(data.captions), own, pictures(i))

    (image_first, text_first), (image_other, text_other) = first.rankings, other.rankings
    # No picture twice, and no caption: many pictures may have the same.
    words = list(map(normalise_caption, data.captions))
    owners: list[int] = data.text_images.tolist()
    of_texts = most_different(text_first.ranks, text_other.ranks, list(zip(owners, words, strict=True)), _QUERIES)
    begins = dict(zip(reversed(owners), reversed(words), strict=True))
    of_images = most_different(
        image_first.ranks, image_other.ranks, [(i, begins[i]) for i in range(len(data.positions))], _QUERIES
    )
    # Those first where the other model is ahead: it is the one that is asked about.
    return (
        [by_text(j, winner) for winner in (1, 0) for j in of_texts[winner]],
        [by_image(i, winner) for winner in (1, 0) for i in of_images[winner]],
    )


class _Searching:
    """Exact scores of one model."""

    def __init__(self, data: EmbeddedData) -> None:
        self.images, self.texts = metrics.exact_units(data.image_features), metrics.exact_units(data.text_features)

    def pictures_for(self, j: int) -> Tensor:
        """(n,) for a caption."""
        return self.images @ self.texts[j]

    def captions_for(self, i: int) -> Tensor:
        """(m,) for a picture."""
        return self.texts @ self.images[i]


def _answer(scores: Tensor, positive: Tensor, shown: partial[RetrievedItem]) -> Answer:
    rank = int(metrics.first_ranks(scores[None], positive[None]))
    # Rivals first, then a stable sort: among equal scores what is right comes last, as in the metrics.
    order = positive.to(torch.uint8).argsort(stable=True)
    order = order[scores[order].argsort(descending=True, stable=True)]
    return Answer(rank, [shown(at, float(scores[at])) for at in order[:_TOP].tolist()])


def _found_picture(pictures: _Pictures, positive: Tensor, row: int, score: float) -> RetrievedItem:
    return RetrievedItem(score, bool(positive[row]), thumbnail=pictures(row))


def _found_caption(data: EmbeddedData, positive: Tensor, place: int, score: float) -> RetrievedItem:
    return RetrievedItem(score, bool(positive[place]), data.captions[place])
