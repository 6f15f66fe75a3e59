"""Geometry against literal loops over the formulas of the papers."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.errors import DataError
from mmcontrast.evaluation import geometry as module
from mmcontrast.evaluation.geometry import effective_rank, geometry, hubness, uniformity


def units(rows: int, d: int = 6, seed: int = 0) -> Tensor:
    return normalize(torch.randn(rows, d, generator=torch.Generator().manual_seed(seed)).double() + 0.5, dim=-1)


def squared(left: Tensor, right: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(left.tolist(), right.tolist(), strict=True))


def slow_uniformity(rows: Tensor) -> float:
    values = [math.exp(-2 * squared(a, b)) for a, b in itertools.combinations(rows, 2)]
    return math.log(sum(values) / len(values))


def slow_skewness(queries: Tensor, gallery: Tensor, k: int) -> float:
    counts = [0] * len(gallery)
    for query in queries:
        near = sorted(range(len(gallery)), key=lambda row: squared(query, gallery[row]))
        for row in near[:k]:
            counts[row] += 1
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    return sum((count - mean) ** 3 for count in counts) / len(counts) / variance**1.5


def test_all_of_it_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    images, texts = units(15), units(30, seed=1)
    owner = torch.arange(15).repeat_interleave(2)
    found = geometry(3 * images.float(), texts.float(), owner)
    pairs = [squared(images[i], text) for i, text in zip(owner.tolist(), texts, strict=True)]
    assert found == {
        "alignment": pytest.approx(sum(pairs) / 30, rel=1e-6),
        "image_uniformity": pytest.approx(slow_uniformity(images), rel=1e-5),
        "text_uniformity": pytest.approx(slow_uniformity(texts), rel=1e-5),
        "modality_gap": pytest.approx(math.sqrt(squared(images.mean(0), texts.mean(0))), rel=1e-5),
        "image_effective_rank": pytest.approx(slow_effective_rank(images), rel=1e-5),
        "text_effective_rank": pytest.approx(slow_effective_rank(texts), rel=1e-5),
        "image_hubness": pytest.approx(slow_skewness(texts, images, 10)),
        "text_hubness": pytest.approx(slow_skewness(images, texts, 10)),
    }


def slow_effective_rank(rows: Tensor) -> float:
    values = np.linalg.svd(rows.numpy(), compute_uv=False)
    return math.exp(-sum(p * math.log(p) for p in values / values.sum() if p > 0))


def test_known_shapes() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(4, 5)) == pytest.approx(1, abs=1e-5)
    point = torch.tensor([[1.0, 0.0]])
    assert uniformity(point.repeat(3, 1)) == 0
    assert uniformity(torch.cat([point, -point])) == pytest.approx(-8)  # their squared distance is 4
    assert uniformity(point) is None


def test_a_hub_is_seen_and_small_galleries_are_null() -> None:
    gallery = torch.cat([torch.eye(8)[:1] + 0.0, -torch.eye(8)])
    hub = hubness(torch.eye(8)[:1].repeat(20, 1), gallery, k=1)
    assert hub is not None
    assert hub > 2
    assert hubness(torch.eye(4), torch.eye(4), k=4) is None
    assert hubness(torch.eye(4), torch.eye(4), k=1) is None  # each is found as often: no skewness
    found = geometry(torch.eye(4), torch.eye(4), torch.arange(4))
    assert found["image_hubness"] is None
    assert found["alignment"] == 0
    json.dumps(found, allow_nan=False)


def test_large_data_is_drawn_from() -> None:
    images, texts = units(60), units(60, seed=1)
    found = geometry(images, texts, torch.arange(60), max_rows=20, seed=3)
    assert found == geometry(images, texts, torch.arange(60), max_rows=20, seed=3)
    whole = geometry(images, texts, torch.arange(60))
    assert found["alignment"] == whole["alignment"]
    assert found["image_uniformity"] != whole["image_uniformity"]


def test_mistakes() -> None:
    with pytest.raises(DataError, match="3 owners for 4 captions"):
        geometry(torch.eye(4), torch.eye(4), torch.arange(3))
    with pytest.raises(DataError, match="no text features"):
        geometry(torch.eye(4), torch.empty(0, 4), torch.arange(0))
