"""Checkpoints are whole or absent, rotated, and cannot run code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcontrast.errors import TrainingError
from mmcontrast.training.checkpoint import Checkpointer


def test_roundtrip_and_rotation(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpointer.save(step, {"weight": torch.full((2,), float(step))}, {"rng": torch.get_rng_state()})
    assert [path.name for path in checkpointer.all()] == ["step-00000010", "step-00000015"]
    shared, own = checkpointer.load(checkpointer.all()[-1])
    assert shared["weight"].tolist() == [15.0, 15.0]
    assert torch.equal(own["rng"], torch.get_rng_state())


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": 1}, {})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpointer.save(2, {"a": 2}, {})
    monkeypatch.undo()
    assert [path.name for path in checkpointer.all()] == ["step-00000001"]
    checkpointer.save(2, {"a": 2}, {})  # the left-over is no obstacle
    assert checkpointer.load(checkpointer.all()[-1])[0] == {"a": 2}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save({"model": Evil()}, folder / "state.pt")
    with pytest.raises(TrainingError, match="cannot be read"):
        Checkpointer(tmp_path).load(folder)


def test_damaged_file_names_itself(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(1, {"a": torch.zeros(100)}, {})
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:200])
    with pytest.raises(TrainingError, match="step-00000001 cannot be read"):
        checkpointer.load(path)
