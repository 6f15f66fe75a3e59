"""Brings an index up to date: only what is new or has changed is embedded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcontrast.embedding import Advance, embed_texts, evaluating, image_batches
from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import MAX_IMAGE_PIXELS
from mmcontrast.searching.collection import Chosen, Collection, State
from mmcontrast.searching.store import Rows, Store

SAVE_EVERY = 30.0
"""Seconds of work that a crash can cost at most."""
TEXTS_AT_A_TIME = 8192
_NO_STATE: State = (0, 0)


@dataclass(frozen=True)
class Indexed:
    """What an index holds after an update.

    Attributes:
        features: (n, d) float32 of the pictures that could be decoded, in the order of the collection.
        positions: (n,) int64 of each in the collection.
        broken: name and reason of each of the others.
        embedded, removed: pictures that this update embedded, and dropped.
    """

    features: Tensor
    positions: Tensor
    broken: list[tuple[str, str]]
    embedded: int
    removed: int


def update_pictures(
    encoder: DualEncoder,
    collection: Collection,
    store: Store,
    *,
    batch_size: int = 64,
    workers: int = 0,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    save_every: float = SAVE_EVERY,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
) -> Indexed:
    """Embed the pictures that the index lacks or that have changed since, and drop those that are gone.

    A broken picture is kept in mind and tried again only when its file changes. Whatever ends the work early, what is
    embedded by then is kept.

    Args:
        encoder: the model whose index it is.
        collection: what is searched.
        store: of the index.
        batch_size, workers, max_image_pixels: as for `embed_images`.
        save_every: seconds after which what is done is written.
        progress: called with the number of pictures done; may raise to end the work.
        expect: told how many pictures there are to do.
    """
    rows = store.read()
    passing: dict[str, str] = {}
    embedded = removed = 0
    if _missing(rows, collection) or _stale(rows, collection) or store.has_parts():
        with store.lock():
            rows = store.read()  # another process may have done it meanwhile
            missing = _missing(rows, collection)
            embedded, removed = len(missing), _stale(rows, collection)
            if missing:
                if expect:
                    expect(len(missing))
                part = _Part(store, encoder.embed_dim, save_every)
                passing = _embed(encoder, collection, missing, part, batch_size, workers, max_image_pixels, progress)
                rows = store.read()
            rows = rows.take([i for _, i in _known(rows, collection)])
            store.replace(rows)
    return _indexed(rows, collection, passing, embedded, removed)


def update_captions(
    encoder: DualEncoder,
    captions: Sequence[str],
    store: Store,
    *,
    batch_size: int = 256,
    progress: Advance | None = None,
    expect: Callable[[int], object] | None = None,
) -> Tensor:
    """The (m, d) features of m different captions; embeds those that the index lacks, and drops those that are gone."""
    rows = store.read()
    if set(rows.names) != set(captions) or store.has_parts():
        with store.lock():
            rows = store.read()
            there = set(rows.names)
            missing = sorted((text for text in captions if text not in there), key=len, reverse=True)
            if expect and missing:
                expect(len(missing))
            for start in range(0, len(missing), TEXTS_AT_A_TIME):
                part = missing[start : start + TEXTS_AT_A_TIME]
                features = embed_texts(encoder, part, batch_size=batch_size)
                store.append(Rows(part, [_NO_STATE] * len(part), features, [""] * len(part)))
                if progress:
                    progress(len(part))
            rows = store.read()
            place = {name: i for i, name in enumerate(rows.names)}
            rows = rows.take([place[text] for text in captions])
            store.replace(rows)
            return rows.features
    place = {name: i for i, name in enumerate(rows.names)}
    return rows.take([place[text] for text in captions]).features


def _known(rows: Rows, collection: Collection) -> list[tuple[int, int]]:
    """(position in the collection, row of the index) of all pictures whose features still hold."""
    place = {name: i for i, name in enumerate(rows.names)}
    return [
        (position, i)
        for position, (name, state) in enumerate(zip(collection.names, collection.states, strict=True))
        if (i := place.get(name)) is not None and rows.states[i] == state
    ]


def _missing(rows: Rows, collection: Collection) -> list[int]:
    """Positions of the pictures that are to be embedded."""
    known = {position for position, _ in _known(rows, collection)}
    return [position for position in range(len(collection)) if position not in known]


def _stale(rows: Rows, collection: Collection) -> int:
    """How many pictures of the index are gone."""
    return len(set(rows.names) - set(collection.names))


def _indexed(rows: Rows, collection: Collection, passing: dict[str, str], embedded: int, removed: int) -> Indexed:
    known = _known(rows, collection)
    good = [(position, i) for position, i in known if not rows.problems[i]]
    broken = {rows.names[i]: rows.problems[i] for _, i in known if rows.problems[i]} | passing
    return Indexed(
        features=rows.features[torch.tensor([i for _, i in good], dtype=torch.int64)],
        positions=torch.tensor([position for position, _ in good], dtype=torch.int64),
        broken=sorted(broken.items()),
        embedded=embedded,
        removed=removed,
    )


def _embed(
    encoder: DualEncoder,
    collection: Collection,
    missing: list[int],
    part: _Part,
    batch_size: int,
    workers: int,
    max_image_pixels: int,
    progress: Advance | None,
) -> dict[str, str]:
    """Embed some pictures; returns name and reason of those that cannot be read just now, which are not kept."""
    passing: dict[str, str] = {}
    source = Chosen(collection.source, missing)
    try:
        with evaluating(encoder):
            for batch in image_batches(encoder, source, batch_size, workers, max_image_pixels, None):
                for row, feature in zip(batch.positions.tolist(), batch.features, strict=True):
                    position = missing[row]
                    part.add(collection.names[position], collection.states[position], feature, "")
                for bad in batch.bad_rows:
                    position = missing[bad.row]
                    name, path = collection.names[position], collection.path(position)
                    if path is not None and not os.access(path, os.R_OK):
                        passing[name] = bad.reason  # what is wrong is not in the file
                    else:
                        part.add(name, collection.states[position], None, bad.reason)
                part.write_if_due()
                if progress:
                    progress(len(batch.positions) + len(batch.bad_rows))
    finally:
        part.write()
    return passing


@dataclass
class _Part:
    """Rows that are not written yet."""

    store: Store
    width: int
    every: float
    last: float = field(default_factory=time.monotonic)
    names: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    features: list[Tensor | None] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, state: State, feature: Tensor | None, problem: str) -> None:
        self.names.append(name)
        self.states.append(state)
        self.features.append(feature)
        self.problems.append(problem)

    def write_if_due(self) -> None:
        if time.monotonic() - self.last >= self.every:
            self.write()

    def write(self) -> None:
        if not self.names:
            return
        features = torch.zeros(len(self.names), self.width)
        for row, feature in enumerate(self.features):
            if feature is not None:
                features[row] = feature
        self.store.append(Rows(self.names, self.states, features, self.problems))
        self.names, self.states, self.features, self.problems = [], [], [], []
        self.last = time.monotonic()
