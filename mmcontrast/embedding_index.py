"""Nearest neighbours in a folder of features: exact, or by faiss indices beside the shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcontrast.embedding_reading import FeatureFolder, ShardedArray, Side
from mmcontrast.embedding_shards import write_json
from mmcontrast.errors import DataError, MMContrastError

INDEX = "index.json"
EXACT_UP_TO = 200_000
"""Features up to which the index compares all: some milliseconds a query, and nothing is missed."""
RECALL_K, WANTED_RECALL = 10, 0.95
QUERIES = 500
_TRAINING_ROWS = 40
"""Features a list that the lists of an approximate index are learnt from; faiss warns below 39."""

Scores = NDArray[np.float32]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class SideIndex:
    """One index; an entry of index.json.

    Attributes:
        file: in the folder, for `faiss.read_index`; its ids are positions among the features.
        features: in it.
        kind: "flat" compares all; "ivf" only those of `probes` of `lists` lists, kept as float16.
        recall: share of the true 10 nearest that it finds, measured with `queries` features of the other side.
    """

    file: str
    features: int
    kind: str
    lists: int | None
    probes: int | None
    recall: float
    queries: int


def require_faiss() -> Any:
    """The library, or an error that says how to get it."""
    try:
        return import_module("faiss")
    except ImportError:
        raise MMContrastError("an index needs faiss: pip install 'mmcontrast[index]' (or leave out --index)") from None


def build_index(
    features: FeatureFolder, *, exact_up_to: int = EXACT_UP_TO, say: Callable[[str], object] | None = None
) -> dict[str, SideIndex]:
    """Write image.faiss, text.faiss and index.json beside the shards; what is there already is kept.

    Up to `exact_up_to` features an index is exact. Above, it is an inverted file (Jegou et al. 2011) of 4 sqrt(n)
    lists that probes as few lists as find 95 % of the true 10 nearest. The whole index is in memory while it is
    built: 4 bytes a value if exact, else 2.

    Raises:
        MMContrastError: faiss is not installed.
    """
    require_faiss()
    if (found := read_index_list(features)) is not None:
        return found
    sides: dict[str, SideIndex] = {}
    for side in ("image", "text"):
        own, other = features.side(side), features.side("text" if side == "image" else "image")
        if not len(own):
            continue
        queries = _sample(other if len(other) else own, QUERIES)
        index, made = _build_side(own, queries, f"{side}.faiss", exact_up_to)
        _write(index, features.folder / made.file)
        sides[side] = made
        if say:
            how = "all are compared" if made.kind == "flat" else f"{made.probes} of {made.lists} lists are looked at"
            say(f"{made.file}: {made.features} features, {how}; recall@{RECALL_K} {made.recall:.3f}")
    write_json(features.folder / INDEX, {side: asdict(made) for side, made in sides.items()})
    return sides


def read_index_list(features: FeatureFolder) -> dict[str, SideIndex] | None:
    """What index.json says, if there is one of all features and its files are there."""
    try:
        values = json.loads((features.folder / INDEX).read_text(encoding="utf-8"))
        sides = {side: SideIndex(**made) for side, made in values.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    whole = all(
        side in ("image", "text")
        and made.file == f"{side}.faiss"
        and made.features == len(features.side("image" if side == "image" else "text"))
        and (features.folder / made.file).is_file()
        for side, made in sides.items()
    )
    return sides if sides and whole else None


def search(features: FeatureFolder, queries: Scores, k: int, side: Side) -> tuple[Scores, Positions]:
    """See `FeatureFolder.search`; where an approximate index finds fewer than k, position -1 and cosine -inf."""
    k = min(k, len(features.side(side)))
    sides = read_index_list(features)
    if sides is None or side not in sides:
        return exact_search(features.side(side), queries, k)
    try:
        faiss = import_module("faiss")
    except ImportError:
        return exact_search(features.side(side), queries, k)
    file = features.folder / sides[side].file
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise DataError(
            f"{file} is damaged ({' '.join(str(error).split())[:200]}): remove it and call embed again"
        ) from None
    scores, positions = index.search(np.ascontiguousarray(queries), k)
    return np.where(positions < 0, -np.inf, scores), positions


def exact_search(features: ShardedArray, queries: Scores, k: int) -> tuple[Scores, Positions]:
    """The k greatest cosines of all, the greatest first: (q, d) to (q, k) and (q, k)."""
    best = np.full((len(queries), 0), -np.inf, np.float32)
    where = np.zeros((len(queries), 0), np.int64)
    for start, block in features.blocks():
        for first in range(0, len(block), _BLOCK):
            scores = queries @ np.asarray(block[first : first + _BLOCK], dtype=np.float32).T
            found = np.arange(scores.shape[1])[None].repeat(len(queries), axis=0)
            if k < scores.shape[1]:
                found = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            best = np.hstack([best, np.take_along_axis(scores, found, 1)])
            where = np.hstack([where, found + start + first])
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
    return best, where


_BLOCK = 8192


def _build_side(own: ShardedArray, queries: Scores, file: str, exact_up_to: int) -> tuple[Any, SideIndex]:
    faiss = require_faiss()
    count, dimension = own.shape
    exact, k = count <= exact_up_to, min(RECALL_K, count)
    lists = None if exact else round(4 * sqrt(count))
    if lists is None:
        index = faiss.IndexFlatIP(dimension)
    else:
        kind = faiss.ScalarQuantizer.QT_fp16
        quantizer = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, kind, faiss.METRIC_INNER_PRODUCT, False)
        index.train(_sample(own, min(count, _TRAINING_ROWS * lists)))
    for _, block in own.blocks():
        index.add(np.asarray(block, dtype=np.float32))
    truth = exact_search(own, queries, k)[0][:, -1:]
    probes = None if lists is None else 1
    recall = 0.0
    while True:
        if probes is not None:
            index.nprobe = probes
        recall = _recall(own, queries, index.search(queries, k)[1], truth)
        if probes is None or lists is None or recall >= WANTED_RECALL or probes >= lists:
            break
        probes = min(2 * probes, lists)
    return index, SideIndex(file, count, "flat" if exact else "ivf", lists, probes, round(recall, 4), len(queries))


def _recall(own: ShardedArray, queries: Scores, positions: Positions, least: Scores) -> float:
    """Share of the found features that are as near as the true k-th; equal captions have equal features."""
    found = own[positions.clip(min=0).reshape(-1)].reshape(*positions.shape, -1).astype(np.float32)
    cosines = np.einsum("qd,qkd->qk", queries, found)
    return float(((cosines >= least - 1e-6) & (positions >= 0)).mean())


def _sample(features: ShardedArray, count: int) -> Scores:
    """(count, d) drawn at random, always the same ones."""
    count = min(count, len(features))
    rows = np.sort(np.random.default_rng(0).choice(len(features), count, replace=False))
    return np.ascontiguousarray(features[rows], dtype=np.float32)


def _write(index: Any, path: Path) -> None:
    aside = path.with_name(f".{path.name}.part")
    try:
        require_faiss().write_index(index, str(aside))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
