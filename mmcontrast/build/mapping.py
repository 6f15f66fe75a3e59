"""The map of an evaluation: which pictures are on it, where, and in which colours."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.build.pictures import Pictures
from mmcontrast.evaluation.cluster_map import joint_features, map_clusters, project
from mmcontrast.evaluation.embedded import EmbeddedData
from mmcontrast.evaluation.queries import some
from mmcontrast.evaluation.tasks import Evaluation
from mmcontrast.report.map import MAX_POINTS, picture_map
from mmcontrast.report.panes import Pane

_CLUSTERS = 8
_LEAST = 3
_DOT = 420
"""Bytes of a dot's markup, less its caption."""
_THUMBNAIL = 5000
"""Bytes of a thumbnail in the page, generously."""
_NAME = 44


def map_pane(evaluation: Evaluation, pictures: Pictures, name: str) -> list[Pane]:
    """A pane with the map, or none where there is too little to see or no room for it."""
    room = pictures.room
    most = MAX_POINTS if room is None else min(MAX_POINTS, room.left // (_THUMBNAIL + _DOT))
    data = evaluation.data.take(some(len(evaluation.data.positions), most, 0))
    if len(data.positions) < _LEAST:
        return []
    shown = Pictures(data, pictures.source)
    images = normalize(data.image_features.float(), dim=1)
    first = _first_captions(data)
    texts = None if first is None else normalize(data.text_features[first].float(), dim=1)
    zero_shot = evaluation.zero_shot
    anchors = zero_shot.weights if zero_shot is not None and texts is None else None
    points, explained = _places([part for part in (images, texts, anchors) if part is not None])
    classes, kind = _classes(data, shown, images, texts, first)
    drawn = picture_map(
        name,
        [shown.image(row) for row in range(len(data.positions))],
        points[0],
        text_points=points[1] if texts is not None else None,
        anchors=None if anchors is None or zero_shot is None else (points[1], zero_shot.class_names),
        captions=[] if first is None else [data.captions[j] for j in first.tolist()],
        classes=classes,
        kind=kind,
        explained=explained,
        left_out=len(evaluation.data.positions) - len(data.positions),
    )
    if room is not None:
        room.left -= len(drawn.sheet) * 4 // 3 + sum(_DOT + len(dot.caption.encode()) for dot in drawn.dots)
    return [Pane("Map", _lead(evaluation, texts is not None, anchors is not None, explained), map=drawn)]


def _lead(evaluation: Evaluation, texts: bool, anchors: bool, explained: float) -> str:
    parts = ["Each dot is a picture: point at it, or tap it, to see it."]
    if texts:
        parts.append("The ring of its colour that lights up with it is its caption.")
    if anchors:
        parts.append("Names stand where the prompts of their class lie.")
    parts.append(
        "Principal components, each modality centred and of the same spread: the plane holds "
        f"{100 * explained:.0f} % of the variance, so what overlaps here may be apart in truth."
    )
    return " ".join(parts)


def _first_captions(data: EmbeddedData) -> Tensor | None:
    """(n,) place of a caption of each picture, or None where a picture has none."""
    if not data.captions:
        return None
    counts = data.text_images.bincount(minlength=len(data.positions))
    return counts.cumsum(0) - counts if bool((counts > 0).all()) else None


def _places(parts: list[Tensor]) -> tuple[list[NDArray[np.float32]], float]:
    """(k, d) features of each modality to (k, 2), each centred and of the same spread, along common directions."""
    centred = [part - part.mean(dim=0) for part in parts]
    centred = [part / part.square().sum(dim=1).mean().sqrt().clamp(min=1e-6) for part in centred]
    points, explained = project(torch.cat(centred))
    return [part.numpy() for part in torch.split(points, [len(part) for part in parts])], explained


def _classes(
    data: EmbeddedData, shown: Pictures, images: Tensor, texts: Tensor | None, first: Tensor | None
) -> tuple[list[str], str]:
    """Name of the class or cluster of each picture, and which of the two it is."""
    if len({label for label in data.labels if label is not None}) > 1:
        return [shown.class_name(label) for label in data.labels], "class"
    joint = normalize(images - images.mean(dim=0), dim=1) if texts is None else joint_features(images, texts)
    found = map_clusters(joint, data.labels, seed=0, clusters=min(_CLUSTERS, len(joint) // 4 or 1))
    names = []
    for number, cluster in enumerate(found.clusters, start=1):
        typical = "" if first is None else data.captions[int(first[cluster.members[0]])]
        names.append(f"{number}: {typical[:_NAME]}{'…' if len(typical) > _NAME else ''}" if typical else str(number))
    return [names[number] for number in found.ids.tolist()], "cluster"
