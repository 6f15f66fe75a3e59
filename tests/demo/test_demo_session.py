"""What the demo answers, without its page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from searching_fakes import BOMB, paint, picture_folder, tiny_model

from mmcontrast.demo import session as module
from mmcontrast.demo.session import Session, class_names
from mmcontrast.errors import DataError
from mmcontrast.preprocess import decode_image
from mmcontrast.searching import Searcher, Store, open_collection, update_pictures

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = picture_folder(tmp_path_factory.mktemp("demo") / "pictures")
    (folder / "captions.csv").write_text("image,caption\n00.png,<b>red</b>\n")
    collection, model = open_collection(folder), tiny_model()
    return Session(
        Searcher(model, collection, update_pictures(model, collection, Store(folder / "i", "pictures", "m")))
    )


def test_words(session: Session) -> None:
    found = session.by_words("a red square", 3)
    hits = session.searcher.search(module.Query("a red square"), 3)
    assert [line for _, line in found.pictures] == [module.line_about(hit) for hit in hits]
    assert found.notes == []
    assert found.pictures[0][0].tobytes() == session.searcher.picture(hits[0]).tobytes()
    assert [len(session.by_words("red", k).pictures) for k in (1, 8)] == [1, 8]
    assert session.by_words("red", 20).notes == ["there are 8 pictures only, not 20: all are shown"]


def test_a_picture(session: Session, tmp_path: Path) -> None:
    found = session.by_picture(str(paint(tmp_path / "q.png", 3)), 2)
    assert found.pictures[0][1].startswith("1.000 · 03.png")


def test_what_cannot_be_asked(session: Session, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the query is empty"):
        session.by_words(" ", 3)
    with pytest.raises(DataError, match="2,001 characters are more than"):
        session.by_words("x" * 2001, 3)
    for path in (None, ""):
        with pytest.raises(DataError, match="choose a picture first"):
            session.by_picture(path, 3)
    (tmp_path / "broken.png").write_bytes(b"x")
    with pytest.raises(DataError, match="not a picture"):
        session.by_picture(str(tmp_path / "broken.png"), 3)


def test_uploads_have_a_limit_of_pixels(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(BOMB)
    with pytest.raises(DataError, match="decompression bomb"):
        session.by_picture(str(tmp_path / "bomb.png"), 3)
    monkeypatch.setattr(module, "MAX_UPLOAD_PIXELS", 48 * 40 - 1)
    with pytest.raises(DataError, match=r"picture of 48 x 40 pixels is over the limit of 1919$"):
        session.classify(str(paint(tmp_path / "q.png", 3)), "a, b")


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (3000, 1500), "red").save(folder / "large.jpg")
    collection, model = open_collection(folder), tiny_model()
    own = Session(
        Searcher(model, collection, update_pictures(model, collection, Store(tmp_path / "i", "pictures", "m")))
    )
    assert own.by_words("red", 1).pictures[0][0].size == (512, 256)
    (folder / "large.jpg").unlink()
    found = own.by_words("red", 1)
    assert found.pictures == []
    assert "large.jpg cannot be shown" in found.notes[0]


def test_probabilities_of_classes(session: Session, tmp_path: Path) -> None:
    path, model = paint(tmp_path / "q.png", 3), session.searcher.encoder
    found = session.classify(str(path), "square, circle\n red  bar;square,")
    assert list(found) == ["square", "circle", "red bar"]
    image = model.encode_image([decode_image(path)])[0]
    logits = []
    for name in found:  # as zero-shot classification is defined
        prompts = model.encode_text([t.replace("{c}", name) for t in module.DEFAULT_TEMPLATES])
        mean = prompts.mean(dim=0)
        logits.append(model.logit_scale.exp() * (mean / mean.norm()) @ image)
    expected = torch.softmax(torch.stack(logits), dim=0)
    torch.testing.assert_close(torch.tensor(list(found.values())), expected.detach(), atol=1e-5, rtol=0)


def test_names_of_classes() -> None:
    assert class_names("a dog\n\ncat, a  dog,bird ") == ["a dog", "cat", "bird"]
    with pytest.raises(DataError, match="at least two different classes"):
        class_names("dog, dog\n")
    with pytest.raises(DataError, match="201 classes are more than the 200"):
        class_names(",".join(map(str, range(201))))


def test_control_characters_of_captions_are_spelt_out(session: Session) -> None:
    hit = session.searcher.search(module.Query("red"), 1)[0]
    line = module.line_about(module.Hit(0.5, hit.name, None, ["a\x1b[2J\u202e" + "x" * 500], None, 0))
    assert line.startswith("0.500 · a\\x1b[2J\\u202e")
    assert len(line) < 200
