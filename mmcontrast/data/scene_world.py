"""What a synthetic scene is, how one is drawn by lot, and when a statement about it is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import TypeVar

SHAPES = (
    "circle", "square", "triangle", "star", "heart", "ring",
    "cross", "crescent", "hexagon", "diamond", "flower", "arrow",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZES = ("small", "large")
BACKGROUNDS = ("sky", "sunset", "night", "grass", "sand", "water", "brick", "wood", "paper")
POSITIONS = ("left", "right", "top", "bottom", "centre")
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind", "inside", "around")
INVERSE = dict(zip(RELATIONS, ("right of", "left of", "below", "above", "behind", "in front of", "around", "inside"),
                   strict=True))  # fmt: skip
# Layouts keep clear of this margin around the borders of the middle third, so that no position is in doubt.
MIDDLE = (0.40, 0.60)
MAX_OBJECTS = 3

T = TypeVar("T")


def pick(random: Random, options: Sequence[T]) -> T:
    """One of `options`, through `random.random` only: the one method whose stream Python promises to keep."""
    return options[int(random.random() * len(options))]


def pick_weighted(random: Random, weights: dict[T, float]) -> T:
    """A key of `weights`, drawn in proportion to its value."""
    threshold = random.random() * sum(weights.values())
    for option, weight in weights.items():
        threshold -= weight
        if threshold < 0:
            return option
    return next(reversed(weights))


@dataclass(frozen=True)
class SceneObject:
    """One object. x, y: its centre, and diameter: its width, all as shares of the picture's side."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    diameter: float

    def is_at(self, position: str) -> bool:
        """Whether the object lies at one of POSITIONS; a corner is at two of them."""
        low, high = MIDDLE
        return {
            "left": self.x < low,
            "right": self.x > high,
            "top": self.y < low,
            "bottom": self.y > high,
            "centre": low <= self.x <= high and low <= self.y <= high,
        }[position]


@dataclass(frozen=True)
class Scene:
    """A picture's exact content.

    Attributes:
        objects: 1-3 objects, the main one (the largest) first; later ones are painted over earlier ones.
        background: one of BACKGROUNDS.
        stacked: the second object lies on the first one.
    """

    objects: tuple[SceneObject, ...]
    background: str
    stacked: bool = False

    def relation(self, first: int, second: int) -> str:
        """The one relation of RELATIONS that holds between two objects: objects[first] IS <relation> objects[second].

        Objects apart from each other are related along the axis on which they are farther apart.
        """
        a, b = self.objects[first], self.objects[second]
        if self.stacked:
            over = "inside" if self.objects[0].shape == "ring" else "in front of"
            return over if first == 1 else INVERSE[over]
        if abs(a.x - b.x) > abs(a.y - b.y):
            return "left of" if a.x < b.x else "right of"
        return "above" if a.y < b.y else "below"

    def description(self) -> str:
        """A canonical text of all that captions could mention: equal texts are equal scenes, whatever the pixels."""
        parts = [
            f"{o.size} {o.texture} {o.colour} {o.shape} @{'+'.join(p for p in POSITIONS if o.is_at(p))}"
            for o in self.objects
        ]
        stack = f" {self.relation(1, 0)}" if self.stacked else ""
        return f"{self.background}: {'; '.join(sorted(parts))}{stack}"


@dataclass(frozen=True)
class PartialObject:
    """What a caption says of one object; None = not mentioned."""

    shape: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    position: str | None = None

    def describes(self, thing: SceneObject) -> bool:
        """Whether all that is mentioned is true of `thing`."""
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.texture in (None, thing.texture)
            and self.size in (None, thing.size)
            and (self.position is None or thing.is_at(self.position))
        )


@dataclass(frozen=True)
class CaptionMeaning:
    """What a caption says: "there are such objects, the first one <relation> the second one, before <background>".

    A caption that keeps silent about an object or an attribute denies nothing.
    """

    objects: tuple[PartialObject, ...]
    relation: str | None = None
    background: str | None = None


def describes(meaning: CaptionMeaning, scene: Scene) -> bool:
    """Whether a caption of this meaning is true of the scene: every mentioned object is a different one there."""
    if meaning.background not in (None, scene.background):
        return False
    return any(
        all(said.describes(scene.objects[k]) for said, k in zip(meaning.objects, chosen, strict=True))
        and (meaning.relation is None or meaning.relation == scene.relation(chosen[0], chosen[1]))
        for chosen in permutations(range(len(scene.objects)), len(meaning.objects))
    )


_LARGE, _SMALL = 0.43, 0.28


def _place(random: Random, size: str, x: float, y: float, diameter: float, shape: str | None = None) -> SceneObject:
    """An object of chance attributes near (x, y); the jitter stays within the layouts' margins."""
    return SceneObject(
        shape=shape or pick(random, SHAPES),
        colour=pick(random, COLOURS),
        texture=pick_weighted(random, {"plain": 0.4, "striped": 0.2, "dotted": 0.2, "checked": 0.2}),
        size=size,
        x=round(x + 0.06 * (random.random() - 0.5), 3),
        y=round(y + 0.06 * (random.random() - 0.5), 3),
        diameter=round(diameter * (0.94 + 0.12 * random.random()), 3),
    )


def _single(random: Random) -> tuple[SceneObject, ...]:
    size = pick(random, SIZES)
    dx, dy = pick_weighted(random, {(0, 0): 3, (-1, 0): 1, (1, 0): 1, (0, -1): 1, (0, 1): 1})
    shift, diameter = (0.17, 0.54) if size == "large" else (0.24, 0.32)
    return (_place(random, size, 0.5 + shift * dx, 0.5 + shift * dy, diameter),)


def _pair(random: Random) -> tuple[SceneObject, ...]:
    """A large and a small object side by side or one above the other, in either order."""
    side = pick(random, (-1, 1))
    if random.random() < 0.5:
        spots = ((0.5 + 0.23 * side, 0.5), (0.5 - 0.27 * side, 0.5))
    else:
        spots = ((0.5, 0.5 + 0.23 * side), (0.5, 0.5 - 0.27 * side))
    return (_place(random, "large", *spots[0], _LARGE + 0.03), _place(random, "small", *spots[1], _SMALL + 0.02))


def _stack(random: Random) -> tuple[SceneObject, ...]:
    """A small object within a large ring, or over a corner of another large object."""
    if random.random() < 0.4:
        back = _place(random, "large", 0.5, 0.5, 0.72, "ring")
        return (back, _place(random, "small", back.x, back.y, 0.29))
    back = _place(random, "large", 0.5, 0.5, 0.6, pick(random, [s for s in SHAPES if s != "ring"]))
    x, y = 0.5 + 0.18 * pick(random, (-1, 1)), 0.5 + 0.18 * pick(random, (-1, 1))
    return (back, _place(random, "small", x, y, 0.3))


def _trio(random: Random) -> tuple[SceneObject, ...]:
    """A triangle of one large and two small objects, its tip pointing to any of the four sides."""
    spots = [(0.5, 0.27), (0.26, 0.73), (0.74, 0.73)]
    if random.random() < 0.5:
        spots = [(x, 1 - y) for x, y in spots]
    if random.random() < 0.5:
        spots = [(y, x) for x, y in spots]
    large = int(random.random() * 3)
    spots = [spots[large], *spots[:large], *spots[large + 1 :]]
    sizes = (("large", _LARGE), ("small", _SMALL), ("small", _SMALL))
    return tuple(_place(random, size, *spot, diameter) for (size, diameter), spot in zip(sizes, spots, strict=True))


def draw_scene(random: Random) -> Scene:
    """A scene by lot; all its randomness comes from `random`."""
    layout = pick_weighted(random, {_single: 0.38, _pair: 0.30, _stack: 0.16, _trio: 0.16})
    objects = layout(random)
    background = pick(random, BACKGROUNDS)
    return Scene(objects=objects, background=background, stacked=layout is _stack)
