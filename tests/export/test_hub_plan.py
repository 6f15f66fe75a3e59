"""What a push would do, file by file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mmcontrast.errors import ModelError
from mmcontrast.export.hub_plan import (
    Content,
    Remote,
    RemoteFile,
    git_digest,
    local_files,
    make_plan,
    readable,
    refuse_other,
)
from mmcontrast.export.marker import MARKER, mark, parse_marker

MODEL, OTHER = "a" * 32, "b" * 32


def export(folder: Path, files: dict[str, bytes], model: str = MODEL) -> dict[str, Content]:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    mark(folder, ["mmcontrast"], model)
    return local_files(folder)


def remote(files: dict[str, bytes], *, fresh: bool = False) -> Remote:
    there = {
        path: RemoteFile(
            len(data), git_digest(data), hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else None
        )
        for path, data in files.items()
    }
    return Remote("0" * 40, there, parse_marker(files.get(MARKER, b"")), fresh=fresh)


def pushed(local: dict[str, Content], before: Remote | None = None, *, overwrite: bool = False) -> dict[str, bytes]:
    """What stands there after a push onto nothing, as bytes."""
    contents = make_plan(local, before, overwrite=overwrite).contents
    return {path: data if isinstance(data, bytes) else data.read_bytes() for path, data in contents.items()}


FILES = {"config.json": b"{}", "onnx/a.onnx": b"123", "model.safetensors": b"weights", "README.md": b"card"}


def test_files_of_an_export(tmp_path: Path) -> None:
    found = export(tmp_path, {**FILES, ".eval_results/a.yaml": b"", ".cache/x": b"", ".git/HEAD": b""})
    assert set(found) == {*FILES, MARKER, ".eval_results/a.yaml"}
    with pytest.raises(ModelError, match=r"is not an export: it has no mmcontrast_export\.json"):
        local_files(tmp_path / "onnx")
    (tmp_path / MARKER).write_text('{"formats": []}')
    with pytest.raises(ModelError, match="does not say which model this is: export it again"):
        local_files(tmp_path)


def test_a_first_push_then_the_same_again(tmp_path: Path) -> None:
    local = export(tmp_path, FILES)
    plan = make_plan(local, None)
    assert plan.paths("new") == sorted([*FILES, MARKER])
    there = pushed(local)
    assert json.loads(there[MARKER])["files"] == sorted([*FILES, MARKER])
    again = make_plan(local, remote(there))
    assert again.empty
    assert not again.contents


def test_changed_and_stale_files(tmp_path: Path) -> None:
    there = pushed(export(tmp_path / "a", {**FILES, "open_clip_config.json": b"{}"})) | {"notes.txt": b"mine"}
    plan = make_plan(export(tmp_path / "b", {**FILES, "model.safetensors": b"WEIGHTS"}), remote(there))
    assert plan.paths("changed") == [MARKER, "model.safetensors"]
    assert plan.paths("delete") == ["open_clip_config.json"]
    assert "notes.txt" not in {step.path for step in plan.steps}
    assert list(plan.lines())[-1] == f"  2 to upload ({readable(_sent(plan))}), 3 unchanged, 1 to delete"


def _sent(plan: object) -> int:
    return sum(step.size for step in plan.steps if step.state == "changed")  # type: ignore[attr-defined]


def test_a_card_that_was_written_on_the_hub_stays(tmp_path: Path) -> None:
    local = export(tmp_path / "a", FILES)
    there = pushed(local) | {"README.md": b"by hand"}
    plan = make_plan(export(tmp_path / "b", {**FILES, "README.md": b"new card"}), remote(there))
    assert plan.kept_card
    assert plan.paths("changed") == [MARKER]  # which does not call README.md ours any more
    there |= {path: bytes(data) for path, data in plan.contents.items() if isinstance(data, bytes)}
    assert make_plan(local, remote(there)).empty
    assert make_plan(local, remote(there), overwrite=True).paths("changed") == ["README.md", MARKER]
    without = export(tmp_path / "c", {"config.json": b"{}"})
    assert make_plan(without, remote(there)).paths("delete") == ["model.safetensors", "onnx/a.onnx"]


def test_our_own_card_is_replaced_and_goes(tmp_path: Path) -> None:
    there = remote(pushed(export(tmp_path / "a", FILES)))
    assert make_plan(export(tmp_path / "b", {"README.md": b"new"}), there).paths("changed") == ["README.md", MARKER]
    assert "README.md" in make_plan(export(tmp_path / "c", {}), there).paths("delete")


def test_another_model_is_refused(tmp_path: Path) -> None:
    there = remote(pushed(export(tmp_path, FILES, OTHER)))
    refuse_other("o/n", there, OTHER, overwrite=False)
    refuse_other("o/n", there, MODEL, overwrite=True)
    refuse_other("o/n", None, MODEL, overwrite=False)
    with pytest.raises(
        ModelError, match=r"^o/n holds another model \(bbbbbbbb, and this is aaaaaaaa\): choose another"
    ):
        refuse_other("o/n", there, MODEL, overwrite=False)


def test_files_of_somebody_else(tmp_path: Path) -> None:
    papers = {".gitattributes": b"", "README.md": b"# mine", "LICENSE": b"", "pictures/a.png": b""}
    refuse_other("o/n", remote(papers), MODEL, overwrite=False)
    foreign = remote({**papers, "pytorch_model.bin": b"", MARKER: b"[]"})
    with pytest.raises(ModelError, match=r"^o/n holds files of somebody else \(pytorch_model.bin\): --overwrite"):
        refuse_other("o/n", foreign, MODEL, overwrite=False)
    local = export(tmp_path, {"config.json": b"{}"})
    assert make_plan(local, foreign, overwrite=True).paths("delete") == ["pytorch_model.bin"]
    assert make_plan(local, remote(papers)).paths("delete") == []


def test_a_new_branch_takes_nothing_from_main(tmp_path: Path) -> None:
    there = {"README.md": b"by hand", "pytorch_model.bin": b"", ".gitattributes": b""}
    branch = remote(there, fresh=True)
    refuse_other("o/n", branch, MODEL, overwrite=False)
    plan = make_plan(export(tmp_path, FILES), branch)
    assert plan.paths("delete") == ["pytorch_model.bin"]
    assert plan.paths("changed") == ["README.md"]


@pytest.mark.parametrize("marker", [{"files": 3}, {"files": "README.md", "card": []}, {"files": [1, None]}])
def test_a_damaged_marker_does_no_harm(tmp_path: Path, marker: dict[str, object]) -> None:
    there = {"README.md": b"x", MARKER: json.dumps({"model": MODEL, **marker}).encode()}
    assert make_plan(export(tmp_path, {}), remote(there)).paths("delete") == []


def test_sizes() -> None:
    assert [readable(size) for size in (0, 999, 1000, 34_250, 1_300_000_000)] == [
        "0 B", "999 B", "1.0 kB", "34.2 kB", "1.3 GB",
    ]  # fmt: skip
