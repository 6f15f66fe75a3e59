"""Checkpoints are whole or absent, verified, rotated, and cannot run code; what cannot be written harms nothing."""

from __future__ import annotations

import errno
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmcontrast.errors import CheckpointFailed, TrainingError
from mmcontrast.training.checkpoint import Checkpointer
from mmcontrast.training.manifest import damage, write_state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_roundtrip_and_rotation(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpointer.save(step, {"weight": torch.full((2,), float(step))}, {"rng": torch.get_rng_state()})
    assert names(tmp_path) == ["step-00000010", "step-00000015"]
    path, remarks = checkpointer.newest()
    assert path == checkpointer.all()[-1] == checkpointer.last
    assert remarks == []
    shared, own = checkpointer.load(checkpointer.all()[-1])
    assert shared["weight"].tolist() == [15.0, 15.0]
    assert len(own) == 1
    assert torch.equal(own[0]["rng"], torch.get_rng_state())


def test_another_number_of_processes_gets_all_states(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    path = checkpointer.save(1, {"world_size": 2}, {"rank": 0})
    write_state(path / "rank-1.pt", {"rank": 1})
    assert checkpointer.load(path) == ({"world_size": 2}, [{"rank": 0}, {"rank": 1}])


@pytest.mark.parametrize("call", ["os.replace", "os.fsync"])
def test_an_interrupted_write_is_not_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": 1}, {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(CheckpointFailed, match=f"{tmp_path}.*: No space left on device"):
        checkpointer.save(2, {"a": 2}, {})
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]
    assert checkpointer.last == tmp_path / "step-00000001"
    checkpointer.save(2, {"a": 2}, {})
    assert checkpointer.load(checkpointer.all()[-1])[0] == {"a": 2}


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process end at 100 kB, as if the disk was full there."""
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fills_up_within_a_file(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"a": torch.zeros(10)}, {})
    with pytest.raises(CheckpointFailed, match=f"{tmp_path}: File too large"):
        checkpointer.save(2, {"a": torch.zeros(100_000)}, {})
    assert names(tmp_path) == ["step-00000001"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointFailed, match=r"file.*: Not a directory"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, {}, {})


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code ran')",))


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"model": Evil()}, {})
    path, _ = checkpointer.newest()
    assert path is not None
    with pytest.raises(TrainingError, match="step-00000001 cannot be read"):
        checkpointer.load(path)


@pytest.mark.parametrize("state", [[], "text", {"world_size": None}, {"world_size": []}])
def test_a_state_that_is_no_state_is_refused(tmp_path: Path, state: object) -> None:
    path = Checkpointer(tmp_path).save(1, state, {})  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="step-00000001 cannot be read"):
        Checkpointer(tmp_path).load(path)


def test_each_way_to_be_damaged_is_seen(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save(1, {"a": torch.zeros(100)}, {})
    state, manifest = path / "state.pt", path / "manifest.json"
    good, written = state.read_bytes(), manifest.read_text()
    assert damage(path) is None
    state.write_bytes(good[:200])
    assert damage(path, thorough=False) == f"state.pt has 200 bytes instead of {len(good)}"
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    state.write_bytes(flipped)
    assert damage(path, thorough=False) is None
    assert damage(path) == "state.pt does not have the bytes that were written"
    state.unlink()
    assert damage(path) == "state.pt: No such file or directory"
    state.write_bytes(good)
    for text in (written[:-20], "[]", '{"files": 3}', '{"files": {"state.pt": {"size": 1}}}'):
        manifest.write_text(text)
        assert damage(path) == "its manifest.json cannot be read"
    manifest.write_text('{"files": {}}')
    assert damage(path) == "its manifest.json names no file"
    manifest.write_text(json.dumps({"files": {"../step-1/state.pt": {"size": 1, "sha256": "0"}}}))
    assert damage(path) == "its manifest.json names '../step-1/state.pt', which is no file of its own"
    manifest.unlink()
    assert damage(path) == "it has no manifest.json"


def test_the_one_before_a_damaged_one_is_taken_and_never_rotated_away(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpointer.save(step, {"step": step}, {})
    (tmp_path / "step-00000003" / "rank-0.pt").write_bytes(b"")
    # The whole one is the older of the two: a further checkpoint must not push it out.
    checkpointer.save(4, {"step": 4}, {})
    (tmp_path / "step-00000004" / "state.pt").write_bytes(b"")
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]
    path, remarks = checkpointer.newest()
    assert path == tmp_path / "step-00000002"
    assert [remark.partition(" has ")[0] for remark in remarks] == [
        "checkpoint step-00000004 is damaged (state.pt",
        "checkpoint step-00000003 is damaged (rank-0.pt",
    ]
    assert all(remark.endswith("; going on from step-00000002 before it") for remark in remarks)
    assert names(tmp_path) == ["damaged-step-00000003", "damaged-step-00000004", "step-00000002"]
    checkpointer.save(3, {"step": 3}, {})
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    assert checkpointer.newest() == (tmp_path / "step-00000003", [])


def test_if_all_are_damaged_nothing_is_lost_unasked(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {}, {})
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(TrainingError, match=r"no checkpoint .* is whole \(step-00000001: it has no .*--overwrite"):
        checkpointer.newest()
    assert names(tmp_path) == ["step-00000001"]


def test_left_overs_of_a_killed_run_go_away(tmp_path: Path) -> None:
    for name in (".step-00000001.part", ".step-00000000.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.pt").touch()
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.newest() == (None, [])
    assert names(tmp_path) == []
    checkpointer.save(2, {}, {})
    assert names(tmp_path) == ["step-00000002"]


def test_a_rotation_that_was_cut_short_is_made_up_for(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Checkpointer(tmp_path, keep=5).save(step, {}, {})
    assert Checkpointer(tmp_path, keep=2).newest() == (tmp_path / "step-00000003", [])
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
