from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcontrast.evaluation.queries import Outcomes, outcomes
from mmcontrast.report.inputs import RetrievedItem
from mmcontrast.report.retrieval import BEST, CONFUSED, WORST, Searched, chosen_queries, hubs, merged

RANKS = torch.tensor([1, 1, 1, 9, 5, 2, 2])
MARGINS = torch.tensor([0.1, 0.3, math.inf, -0.2, -0.5, -0.4, -0.3], dtype=torch.float64)
FIRST = torch.tensor([0, 1, 2, 7, 7, 8, 8])
FOUND = Outcomes(torch.arange(10, 17), RANKS, MARGINS, FIRST)


def test_best_are_right_by_the_widest_margin() -> None:
    assert chosen_queries(FOUND, BEST, 9, lambda query: query) == [12, 11, 10]


def test_worst_stand_furthest_down() -> None:
    assert chosen_queries(FOUND, WORST, 3, lambda query: query) == [13, 14, 15]


def test_confused_are_surest_and_each_finds_something_else() -> None:
    # 13 and 14 are among the two worst; of 15 and 16, which found the same, only the surer one is shown
    assert chosen_queries(FOUND, CONFUSED, 2, lambda query: query) == [15]


def test_of_one_picture_only_one_query_is_shown() -> None:
    assert chosen_queries(FOUND, BEST, 9, lambda query: query // 2) == [12, 11]


def search(rows: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, -math.inf]], dtype=torch.float64)
    return scores[rows], torch.tensor([[False, True, False], [False, True, False]])[rows]


def test_an_example_shows_what_was_found_and_what_is_right() -> None:
    asked = Searched(
        search,
        outcomes(search, torch.arange(2), 3),
        query=lambda i: ([f"query {i}"], None),
        item=lambda j, score, hit: RetrievedItem(score, hit, f"item {j}"),
        picture=lambda i: i,
    )
    first, second = asked.examples(WORST)
    assert [item.caption for item in first.items] == ["item 0", "item 2", "item 1"]
    assert [item.hit for item in first.items] == [False, False, True]
    assert (first.rank, first.gallery_size) == (3, 3)
    assert first.best == RetrievedItem(0.1, True, "item 1")
    assert [item.caption for item in second.items] == ["item 0", "item 1"]  # -inf is no part of the gallery
    assert (second.rank, second.gallery_size) == (2, 2)
    assert asked.examples(BEST) == []


def test_equal_captions_one_after_another_are_shown_once() -> None:
    items = [RetrievedItem(0.9, False, "a"), RetrievedItem(0.8, False, "a"), RetrievedItem(0.7, True, "a")]
    items += [RetrievedItem(0.6, False, "b"), RetrievedItem(0.5, False, "a")]
    assert [(item.caption, item.hit, item.times, item.score) for item in merged(items)] == [
        ("a", False, 2, 0.9),
        ("a", True, 1, 0.7),
        ("b", False, 1, 0.6),
        ("a", False, 1, 0.5),
    ]
    pictures = [RetrievedItem(0.9, False, "a", b"1"), RetrievedItem(0.8, False, "a", b"2")]
    assert merged(pictures) == pictures


def test_hubs_stand_first_far_more_often_than_their_share() -> None:
    first = torch.tensor([3] * 30 + list(range(50)))
    (found,) = hubs(first, 50, lambda place: RetrievedItem(0.0, False, f"item {place}"))
    assert (found.count, found.queries, found.caption) == (31, 80, "item 3")
    assert hubs(torch.arange(50), 50, lambda place: RetrievedItem(0.0, False)) == []
    assert hubs(torch.zeros(0, dtype=torch.int64), 50, lambda place: RetrievedItem(0.0, False)) == []
