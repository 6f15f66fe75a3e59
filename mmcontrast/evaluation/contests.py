"""Who wins what when two models are compared: class by class, query by query, picture by picture."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmcontrast.evaluation.outcomes import Classified

LOWER_IS_BETTER = ("rank", "ece", "brier", "nll", "alignment", "_drop")
UNJUDGED = ("uniformity", "gap", "hubness", "temperature", "strength", "acc1_sd")
"""Parts of the names of metrics of which neither more nor less is better for all purposes."""


class ClassContest(NamedTuple):
    """One class.

    Attributes:
        name: as spelled in the prompts, or in the data.
        pictures: how many it has.
        first: how many of them the first model gets right.
        second: how many the second does.
    """

    name: str
    pictures: int
    first: int
    second: int

    @property
    def difference(self) -> float:
        """Of the recalls, second - first."""
        return (self.second - self.first) / self.pictures


class Tally(NamedTuple):
    """How many items both models get right, only one of them, and none."""

    both: int
    first: int
    second: int
    neither: int


class Race(NamedTuple):
    """How many queries each model answers better than the other, by the rank of what was looked for."""

    first: int
    ties: int
    second: int


def direction(metric: str) -> int:
    """1 where more of a metric is better, -1 where less is, 0 where neither is."""
    if any(part in metric for part in UNJUDGED) or "effective_rank" in metric:
        return 0
    return -1 if any(part in metric for part in LOWER_IS_BETTER) else 1


def class_contests(first: Classified, second: Classified) -> list[ClassContest]:
    """The classes that have pictures, those first that the second model gains most in."""
    classes = len(first.class_names)
    pictures = torch.bincount(first.labels, minlength=classes).tolist()
    right = [
        torch.bincount(one.labels[one.predictions == one.labels], minlength=classes).tolist() for one in (first, second)
    ]
    every = [
        ClassContest(*found) for found in zip(first.class_names, pictures, right[0], right[1], strict=True) if found[1]
    ]
    return sorted(every, key=lambda one: (-one.difference, -one.pictures))


def tally(first: Tensor, second: Tensor) -> Tally:
    """Of (k,) bool, which items each model gets right."""
    every = (first & second, first & ~second, ~first & second, ~first & ~second)
    return Tally(*(int(of.sum()) for of in every))


def race(first: Tensor, second: Tensor) -> Race:
    """Of (q,) ranks by each model; lower is better."""
    return Race(int((first < second).sum()), int((first == second).sum()), int((second < first).sum()))


def most_different(
    first: Tensor, second: Tensor, keys: Sequence[tuple[Hashable, ...]], count: int
) -> tuple[list[int], list[int]]:
    """The queries whose ranks differ most, as ratios: where the first model is ahead, and where the second is.

    Of several queries that share a key only the one that differs most is taken; a tie goes to the earlier one.

    Args:
        first, second: (q,) ranks.
        keys: q, such as the picture of each query and its words.
        count: of each at most.
    """
    ratio = first.double().log() - second.double().log()  # > 0: the second is ahead
    return _largest(-ratio, keys, count), _largest(ratio, keys, count)


def _largest(values: Tensor, keys: Sequence[tuple[Hashable, ...]], count: int) -> list[int]:
    found: list[int] = []
    seen: set[tuple[int, Hashable]] = set()
    for place in values.argsort(descending=True, stable=True).tolist():
        if len(found) == count or values[place] <= 0:
            break
        own = set(enumerate(keys[place]))
        if not own & seen:
            seen |= own
            found.append(place)
    return found
