"""Who wins what, on outcomes small enough to see."""

from __future__ import annotations

import torch

from mmcontrast.evaluation.contests import ClassContest, class_contests, direction, most_different, race, tally
from mmcontrast.evaluation.outcomes import Classified


def classified(predictions: list[int]) -> Classified:
    labels = torch.tensor([0, 0, 1, 1, 1, 3])
    return Classified(labels, torch.tensor(predictions), torch.ones(6), ["a", "b", "c", "d"], torch.arange(6))


def test_classes_are_sorted_by_what_the_second_gains() -> None:
    found = class_contests(classified([0, 1, 1, 1, 1, 0]), classified([0, 0, 1, 0, 1, 0]))
    assert found == [ClassContest("a", 2, 1, 2), ClassContest("d", 1, 0, 0), ClassContest("b", 3, 3, 2)]
    assert [round(one.difference, 3) for one in found] == [0.5, 0.0, -0.333]


def test_right_and_wrong() -> None:
    first, second = torch.tensor([True, True, False, False, True]), torch.tensor([True, False, True, False, False])
    assert tally(first, second) == (1, 2, 1, 1)
    assert race(torch.tensor([1, 5, 3, 9]), torch.tensor([2, 4, 3, 1])) == (1, 1, 2)


def test_the_largest_ratios_of_ranks_one_a_picture() -> None:
    first = torch.tensor([100, 1, 50, 3, 10, 7])
    second = torch.tensor([50, 1, 1, 60, 1, 14])
    keys = list(zip([0, 1, 2, 3, 2, 4], "abcdef", strict=True))
    assert most_different(first, second, keys, 1) == ([3], [2])
    assert most_different(first, second, keys, 9) == ([3, 5], [2, 0])  # 4 shows picture 2 again; 1 is a tie
    assert most_different(first, first, keys, 9) == ([], [])
    words = list(zip([0, 1, 2, 3, 2, 4], "cbcdef", strict=True))
    assert most_different(first, second, words, 9) == ([3, 5], [2])  # 0 says what 2 says


def test_which_way_is_better() -> None:
    assert {direction(name) for name in ("acc1", "text_to_image_recall@5", "map@r", "text_acc_noun")} == {1}
    assert {direction(name) for name in ("mean_rank", "ece_calibrated", "brier", "nll", "alignment", "acc1_drop")} == {
        -1
    }
    assert {direction(name) for name in ("modality_gap", "strength", "text_hubness", "image_effective_rank")} == {0}
