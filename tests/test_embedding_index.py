from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import FakeEncoder, FakeSource
from numpy.typing import NDArray

from mmcontrast import load_features
from mmcontrast.embedding_folder import embed_to_folder
from mmcontrast.embedding_index import build_index, exact_search, read_index_list
from mmcontrast.embedding_reading import FeatureFolder, ShardedArray

faiss = pytest.importorskip("faiss")
DIMENSION = 16


def unit(rows: int, seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def clustered(rows: int, seed: int, dtype: str = "float32") -> NDArray[np.float32]:
    values = unit(40, 1)[np.arange(rows) % 40] + 0.3 * unit(rows, seed)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


def folder_of(tmp_path: Path, images: int = 700, texts: int = 900, dtype: str = "float32") -> FeatureFolder:
    """A folder whose features are replaced by clustered ones."""
    embed_to_folder(FakeEncoder(), FakeSource([1], texts=[["1"]]), tmp_path, model_digest="m")
    found = load_features(tmp_path)
    for name, rows in (("image", images), ("text", texts)):
        values = clustered(rows, len(name), dtype)
        counts = [rows // 3, rows - rows // 3]
        for number, part in enumerate(np.split(values, [counts[0]])):
            np.save(tmp_path / f"{name}{number}.npy", part)
        paths = [tmp_path / f"{name}{number}.npy" for number in range(2)]
        setattr(found, name, ShardedArray(paths, counts, DIMENSION, dtype))
    return found


def test_exact_search_is_a_sort_of_all(tmp_path: Path) -> None:
    found, queries = folder_of(tmp_path), unit(20, 5)
    cosines = queries @ np.asarray(found.text).T
    scores, positions = exact_search(found.text, queries, 7)
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_array_equal(positions, np.argsort(-cosines, axis=1, kind="stable")[:, :7])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_small_index_compares_all(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = folder_of(tmp_path, dtype=dtype), []
    sides = build_index(found, say=said.append)
    assert {side: made.kind for side, made in sides.items()} == {"image": "flat", "text": "flat"}
    assert sides["image"].recall == 1.0
    assert said[0] == "image.faiss: 700 features, all are compared; recall@10 1.000"
    queries = unit(20, 5)
    scores, positions = found.search(queries, 7, "text")
    plain = faiss.read_index(str(tmp_path / "text.faiss"))
    assert plain.ntotal == 900
    np.testing.assert_array_equal(plain.search(queries, 7)[1], positions)  # ids are positions, for faiss alone too
    monkeypatch.setitem(sys.modules, "faiss", None)
    exact = found.search(queries, 7, "text")
    np.testing.assert_allclose(exact[0], scores, atol=1e-6)
    np.testing.assert_array_equal(exact[1], positions)


def test_a_large_index_looks_at_few_lists_and_says_what_it_misses(tmp_path: Path) -> None:
    found, said = folder_of(tmp_path, images=6000), []
    sides = build_index(found, exact_up_to=1000, say=said.append)
    made = sides["image"]
    assert (made.kind, made.lists, sides["text"].kind) == ("ivf", 310, "flat")
    assert made.probes is not None
    assert made.probes < 310
    assert 0.95 <= made.recall <= 1
    assert f"{made.probes} of 310 lists are looked at; recall@10 0.9" in said[0] or made.recall == 1
    assert json.loads((tmp_path / "index.json").read_text())["image"]["recall"] == made.recall
    queries = np.asarray(found.text)
    scores, positions = found.search(queries, 10)
    truth = exact_search(found.image, queries, 10)[0][:, -1:]
    recall = (scores >= truth - 2e-3).mean()  # kept as float16
    assert recall == pytest.approx(made.recall, abs=0.03)
    np.testing.assert_allclose(scores[3], found.image[positions[3]] @ queries[3], atol=2e-3)


def test_an_index_is_built_once_and_again_where_it_is_incomplete(tmp_path: Path) -> None:
    found = folder_of(tmp_path)
    sides, said = build_index(found), []
    assert build_index(found, say=said.append) == sides
    assert said == []
    (tmp_path / "text.faiss").unlink()
    assert build_index(found, say=said.append) == sides
    assert len(said) == 2
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("file", ["a" * 5000, "text.faiss", "../image.faiss", "\0", 5])
def test_an_index_of_another_name_counts_as_none(tmp_path: Path, file: object) -> None:
    found = folder_of(tmp_path)
    build_index(found)
    values = json.loads((tmp_path / "index.json").read_text())
    values["image"]["file"] = file
    (tmp_path / "index.json").write_text(json.dumps(values))
    assert read_index_list(found) is None
