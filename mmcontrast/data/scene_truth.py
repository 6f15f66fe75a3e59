"""`describes` for many captions and many scenes at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from mmcontrast.data.scene_world import (
    BACKGROUNDS,
    COLOURS,
    MAX_OBJECTS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    CaptionMeaning,
    PartialObject,
    Scene,
)

Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int8]]

_VOCABULARY = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}


class _SceneTable:
    """n scenes as arrays; a slot without an object has attribute -1 everywhere, which no caption mentions."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        n = len(scenes)
        self.background: Ints = np.array([BACKGROUNDS.index(s.background) for s in scenes], np.int8)
        self.count: Ints = np.array([len(s.objects) for s in scenes], np.int8)
        self.attribute: dict[str, Ints] = {name: np.full((n, MAX_OBJECTS), -1, np.int8) for name in _VOCABULARY}
        self.position: Bools = np.zeros((n, MAX_OBJECTS, len(POSITIONS)), np.bool_)
        self.relation: Ints = np.full((n, MAX_OBJECTS, MAX_OBJECTS), -1, np.int8)
        for i, scene in enumerate(scenes):
            for k, thing in enumerate(scene.objects):
                for name, words in _VOCABULARY.items():
                    self.attribute[name][i, k] = words.index(getattr(thing, name))
                self.position[i, k] = [thing.is_at(position) for position in POSITIONS]
            for a, b in permutations(range(len(scene.objects)), 2):
                self.relation[i, a, b] = RELATIONS.index(scene.relation(a, b))

    def fits(self, said: PartialObject) -> Bools:
        """(n, MAX_OBJECTS): of which objects the words are true."""
        true: Bools = np.arange(MAX_OBJECTS) < self.count[:, None]
        for name, words in _VOCABULARY.items():
            if (value := getattr(said, name)) is not None:
                true = true & (self.attribute[name] == words.index(value))
        return true if said.position is None else true & self.position[:, :, POSITIONS.index(said.position)]

    def described_by(self, meaning: CaptionMeaning) -> Bools:
        """(n,): of which scenes the caption is true."""
        fits = [self.fits(said) for said in meaning.objects]
        true: Bools = np.zeros(len(self.count), np.bool_)
        for chosen in permutations(range(MAX_OBJECTS), len(fits)):
            holds = np.logical_and.reduce([fit[:, k] for fit, k in zip(fits, chosen, strict=True)])
            if meaning.relation is not None:
                holds = holds & (self.relation[:, chosen[0], chosen[1]] == RELATIONS.index(meaning.relation))
            true |= holds
        if meaning.background is not None:
            true &= self.background == BACKGROUNDS.index(meaning.background)
        return true


def truth_matrix(meanings: Sequence[CaptionMeaning], scenes: Sequence[Scene]) -> Bools:
    """(m, n) bool: whether caption j is true of scene i, exactly as `describes` says, in milliseconds."""
    table = _SceneTable(scenes)
    rows = {meaning: table.described_by(meaning) for meaning in set(meanings)}
    return np.array([rows[meaning] for meaning in meanings], np.bool_).reshape(len(meanings), len(scenes))
