"""The nearest features, by faiss or without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmcontrast.searching import nearest as module
from mmcontrast.searching.nearest import nearest


@pytest.fixture(params=["faiss", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With faiss, and as if it were not installed."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(module, "import_module", _absent)
    monkeypatch.setattr(module, "_CHUNK", 100)
    return str(request.param)


def _absent(name: str) -> Any:
    raise ImportError(name)


def literal(features: Tensor, query: Tensor, k: int) -> list[int]:
    """By the definition: all scores, sorted; of equal ones the first comes first."""
    scores = [sum(a * b for a, b in zip(row, query.tolist(), strict=True)) for row in features.tolist()]
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


@pytest.mark.parametrize("k", [1, 7, 64, 350, 1000])
def test_the_k_greatest(engine: str, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    features = normalize(torch.randn(350, 16, generator=generator), dim=-1)
    query = normalize(torch.randn(16, generator=generator), dim=-1)
    scores, positions = nearest(features, query, k)
    assert positions.tolist() == literal(features, query, k)
    torch.testing.assert_close(scores, (features.double() @ query.double())[positions])


def test_equal_pictures_come_in_their_order(engine: str) -> None:
    row = normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)), dim=-1)
    features = row.repeat(20, 1)
    scores, positions = nearest(features, row[0], 5)
    assert positions.tolist() == [0, 1, 2, 3, 4]
    assert len(set(scores.tolist())) == 1


def test_nothing_to_search_in(engine: str) -> None:
    scores, positions = nearest(torch.empty(0, 4), torch.ones(4), 3)
    assert (scores.tolist(), positions.tolist()) == ([], [])


def test_faiss_is_used_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    calls: list[int] = []
    monkeypatch.setattr(faiss, "knn", lambda *args, _knn=faiss.knn, **kw: (calls.append(1), _knn(*args, **kw))[1])
    nearest(torch.eye(4), torch.ones(4), 2)
    assert calls == [1]
