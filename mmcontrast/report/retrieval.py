"""What became of searches: the queries that went best, worst and most surely wrong; what stands first too often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcontrast.evaluation.queries import Outcomes, Search
from mmcontrast.report.gallery import TOP, search_example
from mmcontrast.report.inputs import RetrievalExample, RetrievedItem
from mmcontrast.report.panes import Hub

SHOWN = 6
"""Queries of a kind and direction."""
_LEAST_HUB = 4
_TIMES_EXPECTED = 5
RANDOM, BEST, WORST, CONFUSED = "random", "best", "worst", "confused"


@dataclass(frozen=True)
class Searched:
    """One direction of a search, and how what takes part in it is shown.

    Attributes:
        search: queries to scores.
        outcomes: of the queries that were looked at.
        query: position -> captions and thumbnail of a query.
        item: position, score and whether it belongs to the query -> what is shown of the gallery.
        picture: position of a query -> its picture: of one picture only one query is shown.
        top: best matches that are looked at; of equal captions one after another only one is shown.
    """

    search: Search
    outcomes: Outcomes
    query: Callable[[int], tuple[Sequence[str], bytes | None]]
    item: Callable[[int, float, bool], RetrievedItem]
    picture: Callable[[int], int]
    top: int = TOP

    def examples(self, kind: str, *, count: int = SHOWN) -> list[RetrievalExample]:
        """Queries of a kind, see `chosen_queries`."""
        return [self._example(query) for query in chosen_queries(self.outcomes, kind, count, self.picture)]

    def _example(self, query: int) -> RetrievalExample:
        scores, positive = (part[0] for part in self.search(torch.tensor([query])))
        captions, thumbnail = self.query(query)
        found = search_example(scores, positive, self.item, captions=captions, thumbnail=thumbnail, top=self.top)
        return replace(found, items=merged(found.items)[:TOP])


def merged(items: Sequence[RetrievedItem]) -> list[RetrievedItem]:
    """Equal captions that follow one another as a single item: pictures of a class often have the same words."""
    found: list[RetrievedItem] = []
    for item in items:
        last = found[-1] if found else None
        if last and item.thumbnail is None and (item.caption, item.hit) == (last.caption, last.hit):
            found[-1] = replace(last, times=last.times + 1)
        else:
            found.append(item)
    return found


def chosen_queries(outcomes: Outcomes, kind: str, count: int, picture: Callable[[int], int]) -> list[int]:
    """The queries to show, no two of one picture.

    Args:
        outcomes: of all that were looked at.
        kind: "random"; "best": right, and most clearly so; "worst": whose answer stands furthest down; "confused": that
            found something wrong by far closer than their answer, each something else.
        count: at most so many.
        picture: position of a query -> its picture.
    """
    order = _order(outcomes, kind)
    worst = set(_varied(outcomes, _order(outcomes, WORST), count, picture, once=False)) if kind == CONFUSED else set()
    places = [place for place in order if place not in worst]
    chosen = _varied(outcomes, places, count, picture, once=kind == CONFUSED)
    return [int(outcomes.queries[place]) for place in chosen]


def _order(outcomes: Outcomes, kind: str) -> list[int]:
    places: list[int]
    if kind == RANDOM:
        places = torch.randperm(len(outcomes.ranks), generator=torch.Generator().manual_seed(0)).tolist()
        return places
    margins = outcomes.margins.nan_to_num(posinf=3.0)
    if kind == WORST:
        key = outcomes.ranks.double() * 4 - margins  # by rank, then by margin, which lies between -2 and 2
        order = key.argsort(descending=True, stable=True)
        places = order[outcomes.ranks[order] > 1].tolist()
        return places
    order = margins.argsort(descending=kind == BEST, stable=True)
    right = outcomes.ranks[order] == 1
    places = order[right if kind == BEST else ~right].tolist()
    return places


def _varied(
    outcomes: Outcomes, places: Sequence[int], count: int, picture: Callable[[int], int], *, once: bool
) -> list[int]:
    """The first `count` places of different pictures and, if `once`, with something different in the first place."""
    chosen: list[int] = []
    pictures: set[int] = set()
    firsts: set[int] = set()
    for place in places:
        own, first = picture(int(outcomes.queries[place])), int(outcomes.first[place])
        if own in pictures or (once and first in firsts):
            continue
        pictures.add(own)
        firsts.add(first)
        chosen.append(place)
        if len(chosen) == count:
            break
    return chosen


def hubs(first: Tensor, gallery: int, show: Callable[[int], RetrievedItem], *, count: int = 3) -> list[Hub]:
    """What stands first for far more queries than its share.

    Args:
        first: (q,) int64 of a gallery of so many.
        gallery: its size.
        show: position -> what is shown of it.
        count: at most so many are returned.
    """
    if not len(first):
        return []
    counts = first.bincount(minlength=gallery)
    least = max(_LEAST_HUB, _TIMES_EXPECTED * len(first) / gallery)
    found = []
    for place in counts.argsort(descending=True, stable=True)[:count].tolist():
        if int(counts[place]) >= least:
            item = show(place)
            found.append(Hub(int(counts[place]), len(first), item.caption or "", item.thumbnail))
    return found
