"""The files of an index."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmcontrast.errors import DataError
from mmcontrast.searching import Store
from mmcontrast.searching import store as module
from mmcontrast.searching.store import Rows


def rows(*names: str, value: float = 1.0) -> Rows:
    states = [(len(name), 10**18 + i) for i, name in enumerate(names)]
    return Rows(list(names), states, torch.full((len(names), 3), float(value)), ["" for _ in names])


def assert_equal(found: Rows, expected: Rows) -> None:
    assert (found.names, found.states, found.problems) == (expected.names, expected.states, expected.problems)
    assert torch.equal(found.features, expected.features)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "index", "pictures", "m")
    assert len(store.read()) == 0
    with store.lock():
        store.replace(rows("a.png", "b/ü 漢.png", "new\nline.png", "half \udcff.png", ""))
    assert_equal(store.read(), rows("a.png", "b/ü 漢.png", "new\nline.png", "half \udcff.png", ""))
    other = Store(tmp_path / "index", "captions", "m")
    assert len(other.read()) == 0


def test_parts_are_added_and_the_newest_counts(tmp_path: Path) -> None:
    store = Store(tmp_path, "pictures", "m")
    store.replace(rows("a", "b"))
    store.append(rows("c", value=2))
    store.append(rows("b", value=3))
    assert store.has_parts()
    found = store.read()
    assert dict(zip(found.names, found.features[:, 0].tolist(), strict=True)) == {"a": 1, "b": 3, "c": 2}
    store.replace(found)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["pictures.safetensors"]
    assert_equal(store.read(), found)
    store.clear()
    assert len(store.read()) == 0


def test_no_rows_can_be_kept_too(tmp_path: Path) -> None:
    store = Store(tmp_path, "pictures", "m")
    store.replace(Rows.none())
    store.append(rows("a"))
    assert_equal(store.read(), rows("a"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _change(key: str, value: torch.Tensor) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        save_file({**load_file(path), key: value}, path, {"format": module.FORMAT, "stamp": "m"})

    return change


DAMAGE = {
    "cut": _cut,
    "garbage": _garbage,
    "empty": _empty,
    "nan": _change("features", torch.full((2, 3), float("nan"))),
    "too few features": _change("features", torch.ones(1, 3)),
    "bytes for features": _change("features", torch.ones(2, 3, dtype=torch.uint8)),
    "no table": _change("features", torch.ones(6)),
    "names": _change("names", torch.tensor([255, 254], dtype=torch.uint8)),
    "ends": _change("name_ends", torch.tensor([3, 2])),
    "ends that are no numbers": _change("name_ends", torch.tensor([0.5, 2.0])),
    "states": _change("states", torch.ones(2, 3, dtype=torch.int64)),
    "another key": _change("more", torch.ones(1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("part", [False, True])
def test_damage_is_told_in_a_line(tmp_path: Path, damage: Callable[[Path], None], part: bool) -> None:
    store = Store(tmp_path, "pictures", "m")
    (store.append if part else store.replace)(rows("a", "b"))
    (file,) = tmp_path.glob("*.safetensors")
    damage(file)
    with pytest.raises(DataError, match=r"\.safetensors: the index is damaged \(.*\): add --rebuild") as caught:
        store.read()
    assert "\n" not in str(caught.value)
    store.clear()
    assert len(store.read()) == 0


def test_features_of_another_model_are_never_taken(tmp_path: Path) -> None:
    Store(tmp_path, "pictures", "m").replace(rows("a"))
    with pytest.raises(DataError, match="of another model"):
        Store(tmp_path, "pictures", "n").read()


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    store = Store(tmp_path, "pictures", "m")
    caught: list[BaseException] = []

    def other() -> None:
        try:
            with Store(tmp_path, "pictures", "m").lock():
                pass
        except DataError as error:
            caught.append(error)

    with store.lock():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another process brings this index up to date" in str(caught[0])
    other()
    assert len(caught) == 1


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(DataError, match=r"the index cannot be written: .*; give another --index"),
        Store(tmp_path / "file" / "index", "pictures", "m").lock(),
    ):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, "pictures", "m")
    store.replace(rows("a"))

    def full(tensors: object, path: Path, about: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(DataError, match="the index cannot be written: No space left on device"):
        store.replace(rows("a", "b"))
    assert_equal(store.read(), rows("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.safetensors"]
