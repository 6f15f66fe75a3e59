"""Files that grow with a run: nothing half written, whatever ends or fills up."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_checkpoint import small_files

from mmcontrast.errors import TrainingError
from mmcontrast.training.lines import LineFile

__all__ = ["small_files"]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    assert file.read() == []
    file.append([{"step": 1, "text": "two\u2028lines \x85 of one"}, {"step": 2}])
    with file.path.open("a") as torn:
        torn.write('{"step": 3, "te')
    assert [line["step"] for line in file.read()] == [1, 2]
    file.keep(lambda line: line["step"] < 3)
    file.append([{"step": 3}])
    assert [line["step"] for line in LineFile(file.path).read()] == [1, 2, 3]
    file.keep(lambda line: line["step"] < 2)
    assert file.read() == [{"step": 1, "text": "two\u2028lines \x85 of one"}]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_tried_again(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    file.append([{"text": "x" * 60_000}])
    file.append([{"text": "y" * 60_000}])
    assert file.problem == f"{file.path}: File too large"
    assert len(file.read()) == 1
    with pytest.raises(TrainingError, match=r"lines.jsonl: File too large; 1 lines are missing at its end"):
        file.close()
    file.path.write_text("")  # room again
    file.append([{"text": "z"}])
    assert file.problem is None
    assert [line["text"][0] for line in file.read()] == ["y", "z"]
    file.close()
