"""An index follows its folder: only what is new or changed is embedded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from searching_fakes import changed, paint, picture_folder, tiny_model

from mmcontrast.models import DualEncoder
from mmcontrast.preprocess import decode_image
from mmcontrast.searching import Store, open_collection, update_captions, update_pictures
from mmcontrast.searching.update import Indexed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return tiny_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return picture_folder(tmp_path / "pictures")


class Counted:
    """Updates the index of a folder and notes what was embedded."""

    def __init__(self, model: DualEncoder, folder: Path, index: Path) -> None:
        self.model, self.folder, self.store = model, folder, Store(index, "pictures", "m")
        self.done: list[int] = []
        self.expected: list[int] = []

    def __call__(self, **options: float) -> Indexed:
        self.done, self.expected = [], []
        return update_pictures(
            self.model,
            open_collection(self.folder),
            self.store,
            batch_size=int(options.pop("batch_size", 3)),
            progress=self.done.append,
            expect=self.expected.append,
            **options,
        )


@pytest.fixture
def update(model: DualEncoder, folder: Path, tmp_path: Path) -> Counted:
    return Counted(model, folder, tmp_path / "index")


def assert_right(found: Indexed, model: DualEncoder, folder: Path) -> None:
    """As by the model itself, picture by picture."""
    collection = open_collection(folder)
    names = [collection.names[i] for i in found.positions.tolist()]
    broken = {name for name, _ in found.broken}
    assert names == [name for name in collection.names if name not in broken]
    expected = [model.encode_image([decode_image(folder / name)])[0] for name in names]
    torch.testing.assert_close(found.features, torch.stack(expected), atol=1e-5, rtol=0)


def test_nothing_is_done_twice(update: Counted) -> None:
    found = update()
    assert (found.embedded, found.removed, update.expected, sum(update.done)) == (8, 0, [8], 8)
    assert_right(found, update.model, update.folder)
    written = {path: path.stat().st_mtime_ns for path in update.store.folder.iterdir()}
    again = update()
    assert (again.embedded, update.expected, update.done) == (0, [], [])
    assert torch.equal(again.features, found.features)
    assert {path: path.stat().st_mtime_ns for path in update.store.folder.iterdir()} == written


def test_new_changed_renamed_and_removed_pictures(update: Counted) -> None:
    update()
    folder = update.folder
    paint(folder / "08.png", 8)
    changed(paint(folder / "01.png", 16))
    (folder / "03.png").rename(folder / "moved.png")
    (folder / "04.png").unlink()
    found = update()
    assert (found.embedded, found.removed) == (3, 2)
    assert_right(found, update.model, folder)
    names = update.store.read().names
    assert sorted(names) == sorted(open_collection(folder).names)  # nothing is left of those that are gone
    (folder / "00.png").unlink()
    found = update()
    assert (found.embedded, found.removed, update.expected) == (0, 1, [])
    assert_right(found, update.model, folder)


def test_broken_pictures_are_listed_and_tried_again_only_when_they_change(update: Counted) -> None:
    broken = update.folder / "09.jpg"
    broken.write_bytes(b"no picture")
    (update.folder / "10.jpg").write_bytes(b"")
    found = update()
    reasons = dict(found.broken)
    assert reasons["09.jpg"] == "not a picture in a known format"
    assert set(reasons) == {"09.jpg", "10.jpg"}
    assert_right(found, update.model, update.folder)
    again = update()
    assert (again.embedded, dict(again.broken)) == (0, reasons)
    paint(broken, 9, "JPEG")
    mended = update()
    assert (mended.embedded, set(dict(mended.broken))) == (1, {"10.jpg"})
    assert_right(mended, update.model, update.folder)


def test_all_pictures_are_broken(model: DualEncoder, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    update = Counted(model, tmp_path / "pictures", tmp_path / "index")
    assert [len(update().features), update().embedded] == [0, 0]
    paint(tmp_path / "pictures" / "c.png", 1)
    assert len(update().features) == 1


def test_pictures_that_cannot_be_read_now_are_tried_again(update: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    # Denied is denied to no superuser, so the question is answered for the system.
    (update.folder / "09.jpg").write_bytes(b"no picture")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "09.jpg")
    assert dict(update().broken) == {"09.jpg": "not a picture in a known format"}
    monkeypatch.undo()
    assert update().embedded == 1
    assert update().embedded == 0


def test_an_interrupted_update_is_gone_on_with(update: Counted) -> None:
    advance, calls = update.done.append, []

    class Stop(Exception):
        pass

    def stop(count: int) -> None:
        advance(count)
        calls.append(count)
        if len(calls) == 2:
            raise Stop

    with pytest.raises(Stop):
        update_pictures(update.model, open_collection(update.folder), update.store, batch_size=3, progress=stop)
    assert update.store.has_parts()
    assert len(update.store.read()) == 6
    found = update()
    assert update.expected == [2]
    assert_right(found, update.model, update.folder)
    assert not update.store.has_parts()


def test_what_is_done_is_written_now_and_then(update: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    append = update.store.append
    monkeypatch.setattr(update.store, "append", lambda rows: (written.append(len(rows)), append(rows)))
    update(save_every=0)
    assert written == [3, 3, 2]


def test_captions(model: DualEncoder, tmp_path: Path) -> None:
    store, done = Store(tmp_path, "captions", "m"), []
    texts = ["a red square", "the blue bar", "a\x00b", ""]
    features = update_captions(model, texts, store, progress=done.append)
    torch.testing.assert_close(features, model.encode_text(texts), atol=1e-5, rtol=0)
    again = update_captions(model, ["one green circle", *texts[:2]], store, progress=done.append)
    assert done == [4, 1]
    assert torch.equal(again[1:], features[:2])
    assert store.read().names == ["one green circle", *texts[:2]]
    assert torch.equal(update_captions(model, [*texts[:2][::-1], "one green circle"], store), again[[2, 1, 0]])
