"""The embedded data set: captioned synthetic scenes whose truth is known exactly ("synthetic://scenes")."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from random import Random
from typing import Literal

from mmcontrast.data.columns import Columns
from mmcontrast.data.scene_captions import class_names, draw_meaning, word_meaning
from mmcontrast.data.scene_drawing import paint
from mmcontrast.data.scene_truth import Bools, truth_matrix
from mmcontrast.data.scene_world import (
    SHAPES,
    CaptionMeaning,
    PartialObject,
    Scene,
    SceneObject,
    describes,
    draw_scene,
)
from mmcontrast.errors import DataError
from mmcontrast.types import BadRow

__all__ = [
    "CaptionMeaning",
    "PartialObject",
    "Scene",
    "SceneObject",
    "SceneSource",
    "describes",
    "false_negative_rate",
    "positives",
    "truth_matrix",
]

Split = Literal["train", "validation", "test"]
SPLITS = ("train", "validation", "test")


def _stream(purpose: str, seed: int, split: str, row: int) -> Random:
    """The random stream of one row for one purpose: the same on every machine, independent of all others."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{split}/{row}".encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def _encode(scene: Scene, random: Random, size: int) -> bytes:
    buffer = io.BytesIO()
    paint(random, scene, size).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


class SceneSource:
    """`rows` captioned pictures of `image_size` pixels; row i depends on (seed, split, i) only, not on `rows`.

    Each row has 3-5 captions. The label is the shape of the main object, which is the largest one; the group is
    the scene's canonical description, equal for scenes that differ in pixels only.

    Raises:
        DataError: an unknown split, or no rows.
    """

    def __init__(self, rows: int = 2000, split: str = "train", seed: int = 0, *, image_size: int = 64) -> None:
        if split not in SPLITS:
            raise DataError(f"synthetic scenes have no split {split!r}: choose one of {', '.join(SPLITS)}")
        if rows < 1 or image_size < 16:
            raise DataError(f"synthetic scenes need rows >= 1 and image_size >= 16, got {rows} and {image_size}")
        self.name = f"synthetic://scenes/{split}"
        self.columns = Columns(image="image", captions=("captions",), label="shape", group="scene")
        self.label_names: list[str] | None = class_names()
        self.bad_rows: list[BadRow] = []
        self._scenes: list[Scene] = []
        self._images: list[bytes] = []
        self._captions: list[list[str]] = []
        self._meanings: list[list[CaptionMeaning]] = []
        for row in range(rows):
            self._add(seed, split, row, image_size)

    def _add(self, seed: int, split: str, row: int, image_size: int) -> None:
        scene = draw_scene(_stream("scene", seed, split, row))
        self._scenes.append(scene)
        self._images.append(_encode(scene, _stream("paint", seed, split, row), image_size))
        random, worded = _stream("captions", seed, split, row), dict[str, CaptionMeaning]()
        wanted = 3 + int(random.random() * 3)
        while len(worded) < wanted:
            meaning = draw_meaning(random, scene)
            worded.setdefault(word_meaning(random, meaning), meaning)
        self._captions.append(list(worded))
        self._meanings.append(list(worded.values()))

    def __len__(self) -> int:
        return len(self._scenes)

    def image(self, i: int) -> bytes:
        """The picture as JPEG (full colour resolution)."""
        return self._images[i]

    def captions(self, i: int) -> list[str]:
        """3-5 different sentences, each true of the picture."""
        return self._captions[i]

    def meanings(self, i: int) -> list[CaptionMeaning]:
        """What each of `captions(i)` says."""
        return self._meanings[i]

    def scene(self, i: int) -> Scene:
        """What the picture shows."""
        return self._scenes[i]

    def label(self, i: int) -> int | None:
        """Position in `label_names` of the main object's shape."""
        return SHAPES.index(self._scenes[i].objects[0].shape)

    def group(self, i: int) -> str | None:
        """Canonical description of the scene."""
        return self._scenes[i].description()

    def row_number(self, i: int) -> int:
        """The row itself: nothing is left out."""
        return i


def positives(source: SceneSource, images: Sequence[int] | None = None) -> tuple[Bools, list[tuple[int, int]]]:
    """All true pairs among these rows (default: all rows), known false negatives included.

    Returns:
        (m, n) bool matrix, caption j true of image i at [j, i], and the (row, position among its captions) of each
        of the m captions, in order.
    """
    rows = range(len(source)) if images is None else images
    owners = [(i, k) for i in rows for k in range(len(source.meanings(i)))]
    return truth_matrix([source.meanings(i)[k] for i, k in owners], [source.scene(i) for i in rows]), owners


def false_negative_rate(source: SceneSource, batch_size: int, *, batches: int = 20, seed: int = 0) -> float:
    """Share of the b^2 - b "negatives" of a random batch (one caption per image) that are in truth positives."""
    random, found = Random(seed), 0
    for _ in range(batches):
        rows = [int(random.random() * len(source)) for _ in range(batch_size)]
        drawn = [source.meanings(i)[int(random.random() * len(source.meanings(i)))] for i in rows]
        found += int(truth_matrix(drawn, [source.scene(i) for i in rows]).sum()) - batch_size
    return found / (batches * (batch_size * batch_size - batch_size))
