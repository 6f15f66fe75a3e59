"""Answers, against the definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from searching_fakes import paint, picture_folder, tiny_model

from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image
from mmcontrast.searching import (
    Query,
    Searcher,
    Store,
    different_captions,
    open_collection,
    read_query,
    update_captions,
    update_pictures,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CAPTIONS = """image,caption
00.png,a red square
00.png,the red square
01.png,one green square
below/02.png,a blue square
below/02.png,the red square
03.png,the orange square
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = picture_folder(tmp_path_factory.mktemp("search") / "pictures")
    (folder / "captions.csv").write_text(CAPTIONS)
    (folder / "broken.png").write_bytes(b"x")
    return folder


def make(folder: Path, captions: bool) -> Searcher:
    model, collection = tiny_model(), open_collection(folder)
    indexed = update_pictures(model, collection, Store(folder.parent / "index", "pictures", "m"))
    if not captions:
        return Searcher(model, collection, indexed)
    texts = different_captions(collection, indexed)
    return Searcher(
        model, collection, indexed, (texts, update_captions(model, texts, Store(folder.parent, "captions", "m")))
    )


@pytest.fixture(scope="module")
def searcher(folder: Path) -> Searcher:
    return make(folder, captions=False)


@pytest.mark.parametrize("k", [1, 5, 8])
def test_words(searcher: Searcher, folder: Path, k: int) -> None:
    model = searcher.encoder
    hits = searcher.search(Query("a red square"), k)
    text = model.encode_text("a red square")[0]
    scores = {
        str(path.relative_to(folder)): float(model.encode_image([decode_image(path)])[0] @ text)
        for path in folder.rglob("*.png")
        if path.name != "broken.png"
    }
    expected = sorted(scores, key=lambda name: -scores[name])[:k]
    assert [hit.name for hit in hits] == expected
    assert [hit.score for hit in hits] == pytest.approx([scores[name] for name in expected], abs=1e-5)
    assert all(hit.path == folder / hit.name and hit.caption is None for hit in hits)
    assert all(hit.captions == ["a red square", "the red square"] for hit in hits if hit.name == "00.png")


def test_a_picture_finds_itself(searcher: Searcher, folder: Path) -> None:
    for name in ("00.png", "below/05.png"):
        best = searcher.search(read_query(folder / name), 3)[0]
        assert (best.name, best.score) == (name, pytest.approx(1, abs=1e-5))
        assert searcher.picture(best).tobytes() == decode_image(folder / name).tobytes()


def test_more_than_there_are(searcher: Searcher) -> None:
    said: list[str] = []
    assert len(searcher.search(Query("red"), 50, said.append)) == len(searcher) == 8
    assert said == ["there are 8 pictures only, not 50: all are shown"]
    with pytest.raises(DataError, match="k = 0: at least 1"):
        searcher.search(Query("red"), 0)


def test_words_that_are_too_long_are_told(searcher: Searcher) -> None:
    said: list[str] = []
    searcher.search(Query("one red square on white " * 10), 2, said.append)
    (line,) = said
    assert "is longer than the 16 tokens that the model reads: its end does not count" in line
    said.clear()
    searcher.search(Query("one red square"), 2, said.append)
    assert said == []


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_captions(folder: Path, k: int) -> None:
    searcher = make(folder, captions=True)
    model = searcher.encoder
    query = model.encode_text("a red bar")[0]
    best: dict[str, tuple[float, str]] = {}
    for line in CAPTIONS.splitlines()[1:]:
        name, caption = line.split(",")
        best[name] = max(best.get(name, (-2.0, "")), (float(model.encode_text(caption)[0] @ query), caption))
    expected = sorted(best, key=lambda name: -best[name][0])[:k]
    hits = searcher.search(Query("a red bar"), k)
    assert [hit.score for hit in hits] == pytest.approx([best[name][0] for name in expected], abs=1e-5)
    assert {hit.name: hit.caption for hit in hits}.items() <= {n: c for n, (_, c) in best.items()}.items()


def test_no_captions_to_search(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "pictures", 2)
    with pytest.raises(DataError, match="no captions to search: leave out --captions"):
        make(folder, captions=True)


def test_a_picture_that_is_gone(tmp_path: Path) -> None:
    searcher = make(picture_folder(tmp_path / "pictures", 2), captions=False)
    hit = searcher.search(Query("red"), 1)[0]
    paint(tmp_path / "pictures" / hit.name, 9).unlink()
    with pytest.raises(DataError, match="No such file"):
        searcher.picture(hit)


def test_features_are_of_length_one(searcher: Searcher) -> None:
    torch.testing.assert_close(searcher.indexed.features.norm(dim=1), torch.ones(8))
