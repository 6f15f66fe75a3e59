"""Several sources by weight: which of them each pair comes from is fixed by the seed and the pair's place alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from mmcontrast.data.dataset import item_seed

T = TypeVar("T")
_ONE = 1 << 32


@dataclass(frozen=True)
class _Fork:
    """A node of the tree of sources: of its first places, so many belong to the left branch as a straight line says.

    Attributes:
        left, right: a source, or a further node.
        slope, start, unit: of the line, whole numbers, so that place 10**12 is as exact as the first one.
    """

    left: _Fork | int
    right: _Fork | int
    slope: int
    start: int
    unit: int

    def left_of(self, places: int) -> int:
        """How many of the first so many places belong to the left branch."""
        return (places * self.slope + self.start) // self.unit


class Mixture:
    """Deals places 0, 1, 2, ... out to sources, so that any stretch of them holds each source by its share.

    Two sources take turns as the steps of a straight line do: every stretch of n places has share * n of them, but for
    less than one. More sources are put into a tree of such forks, each as even as can be: what is off at a fork counts
    below it by the branch's share (two thirds at most, for a branch that forks again), so in all it is less than four.

    Args:
        weights: positive numbers.
        seed: where the pattern begins.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        total = sum(exact, Fraction())
        self.shares = [float(weight / total) for weight in exact]
        self._seed, self._forks = seed, 0
        order = sorted(range(len(exact)), key=lambda source: -exact[source])
        self._root = self._branch(order, exact)

    def _branch(self, sources: list[int], weights: list[Fraction]) -> _Fork | int:
        if len(sources) == 1:
            return sources[0]
        total = sum((weights[source] for source in sources), Fraction())
        sums = [sum((weights[source] for source in sources[:cut]), Fraction()) for cut in range(len(sources))]
        cut = min(range(1, len(sources)), key=lambda cut: abs(2 * sums[cut] - total))
        self._forks += 1
        phase = item_seed(self._seed, self._forks, 0) % _ONE
        left, right = self._branch(sources[:cut], weights), self._branch(sources[cut:], weights)
        share = sums[cut] / total
        return _Fork(left, right, share.numerator * _ONE, phase * share.denominator, share.denominator * _ONE)

    def source(self, place: int) -> int:
        """The source of the pair at a place."""
        node = self._root
        while isinstance(node, _Fork):
            before = node.left_of(place)
            if node.left_of(place + 1) > before:
                node, place = node.left, before
            else:
                node, place = node.right, place - before
        return node

    def counts(self, places: int) -> list[int]:
        """How many of the first so many places each source has."""
        found = [0] * len(self.shares)
        waiting = [(self._root, places)]
        while waiting:
            node, count = waiting.pop()
            if isinstance(node, _Fork):
                left = node.left_of(count)
                waiting += [(node.left, left), (node.right, count - left)]
            else:
                found[node] = count
        return found


def in_turn(parts: Sequence[Iterator[T]], source: Callable[[int], int]) -> Iterator[T]:
    """What some iterators give, each thing once, from the one that `source` names for each place.

    One that has ended is passed over.
    """
    left, place = set(range(len(parts))), 0
    while left:
        chosen = source(place) if len(left) > 1 else next(iter(left))
        place += 1
        if chosen not in left:
            continue
        try:
            thing = next(parts[chosen])
        except StopIteration:
            left.discard(chosen)
        else:
            yield thing
